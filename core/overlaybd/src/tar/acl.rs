//! Access control lists as `tar` and `bsdtar` write them: text, which becomes what the kernel has as an attribute.

/// Tags of entries.
const OWNER: u16 = 1;
const USER: u16 = 2;
const OWNING_GROUP: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// What stands where an entry is of nobody in particular.
const NOBODY: u32 = u32::MAX;
const VERSION: u32 = 2;

/// The value of the attribute that `user::rw-,user:7:r--,…` stands for; entries are divided by commas or newlines, and
/// a number may follow for a name. `list` is `access` or `default`. An empty value if the first says no more than
/// permissions do; for what a directory gives to new files there are no permissions.
///
/// None if it is no list, or has names without numbers: who they are is known to another machine.
pub(super) fn attribute(list: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    for line in text.split(|b| matches!(b, b',' | b'\n')) {
        let line = line.split(|b| *b == b'#').next().unwrap_or_default().trim_ascii();
        if !line.is_empty() {
            entries.push(entry(line)?);
        }
    }
    entries.sort_unstable();
    let tags: Vec<u16> = entries.iter().map(|(tag, ..)| *tag).collect();
    let count = |wanted: u16| tags.iter().filter(|tag| **tag == wanted).count();
    let named = count(USER) + count(GROUP) > 0;
    let twice = entries.windows(2).any(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1));
    if [OWNER, OWNING_GROUP, OTHER].iter().any(|tag| count(*tag) != 1) || twice || (named && count(MASK) == 0) {
        return None;
    }
    if list == b"access" && entries.len() == 3 {
        return Some(Vec::new());
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Some(value)
}

/// `TAG:WHO:PERMISSIONS[:NUMBER]` as tag, number and permissions.
fn entry(line: &[u8]) -> Option<(u16, u32, u16)> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
    // The mask and the others may be written without an empty field.
    let fields = match fields.as_slice() {
        [tag @ (b"mask" | b"other" | b"m" | b"o"), permissions] => vec![*tag, b"", *permissions],
        _ => fields,
    };
    let (&tag, &who, &permissions) = (fields.first()?, fields.get(1)?, fields.get(2)?);
    let tag = match (tag, who.is_empty()) {
        (b"user" | b"u", true) => OWNER,
        (b"user" | b"u", false) => USER,
        (b"group" | b"g", true) => OWNING_GROUP,
        (b"group" | b"g", false) => GROUP,
        (b"mask" | b"m", true) => MASK,
        (b"other" | b"o", true) => OTHER,
        _ => return None,
    };
    let id = match (tag, fields.get(3)) {
        (USER | GROUP, number) => {
            let digits = number.filter(|number| !number.is_empty()).copied().unwrap_or(who);
            super::pax::decimal(digits).and_then(|id| u32::try_from(id).ok())?
        }
        _ => NOBODY,
    };
    let bit = |byte: &u8| match byte {
        b'r' => Some(4),
        b'w' => Some(2),
        b'x' => Some(1),
        b'-' => Some(0),
        _ => None,
    };
    let permissions = permissions.iter().try_fold(0, |all, byte| bit(byte).map(|bit| all | bit))?;
    Some((tag, id, permissions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_attributes() {
        let hex = |text: &str| {
            let value = attribute(b"access", text.as_bytes());
            value.map(|value| value.iter().map(|b| format!("{b:02x}")).collect::<String>())
        };
        let wanted = "0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000000ffffffff";
        assert_eq!(hex("user::rw-,user:1000:r--,group::r--,mask::rw-,other::---").as_deref(), Some(wanted));
        let lines = "# a remark\nother:---\nuser:somebody:r--:1000\nu::rw-\ngroup::r-- #effective\nmask:rw-\n";
        assert_eq!(hex(lines).as_deref(), Some(wanted));
        assert_eq!(hex("user::rw-,group::r--,other::r--").as_deref(), Some(""));
        let mask = "0200000001000600ffffffff04000400ffffffff10000500ffffffff20000000ffffffff";
        assert_eq!(hex("user::rwr,group::r--,mask::xr-,other::").as_deref(), Some(mask), "letters in any order");
        let groups = "0200000001000000ffffffff04000000ffffffff0800010007000000080002000800000010000000ffffffff\
                      20000000ffffffff";
        assert_eq!(hex("g:8:w,g:7:x,u::,g::,m::,o::").as_deref(), Some(groups));
        let wanted = b"\x02\0\0\0\x01\0\x07\0\xFF\xFF\xFF\xFF\x04\0\x05\0\xFF\xFF\xFF\xFF\x20\0\0\0\xFF\xFF\xFF\xFF";
        assert_eq!(attribute(b"default", b"user::rwx,group::r-x,other::---").as_deref(), Some(&wanted[..]));
        let all = "0200000001000700ffffffff02000100e803000004000200ffffffff10000700ffffffff20000500ffffffff";
        assert_eq!(hex("user::rwx,user:1000:--x,group::-w-,mask::rwx,other::r-x").as_deref(), Some(all));
        for bad in [
            "user::rw-",
            "user::rw-,user:joe:r--,group::r--,mask::r--,other::r--",
            "nonsense",
            "",
            "user::rw-,user:7:r--,group::r--,other::r--",
            "user::rwz,group::r--,other::r--",
            "user::rw-,user::rw-,group::r--,other::r--",
            "user::rw-,group::r--,group:7:r--,other::r--",
            "user::rw-,user:7:r--,group::r--,group:7:r--,other::r--",
            "user::rw-,user:7:r--,user:7:rw-,group::r--,mask::r--,other::r--",
            "user::rw-,user:7,group::r--,mask::r--,other::r--",
            "user::rw-,user:4294967296:r--,group::r--,mask::r--,other::r--",
        ] {
            assert_eq!(hex(bad), None, "{bad}");
        }
    }
}
