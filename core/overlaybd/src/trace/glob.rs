//! Patterns for names: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before what is meant as it is.

/// Whether a name has anything in it that makes it a pattern.
pub(super) fn is_pattern(name: &[u8]) -> bool {
    name.iter().any(|b| matches!(b, b'*' | b'?' | b'[' | b'\\'))
}

/// Whether `name` fits `pattern`. Takes time in proportion to the product of their lengths, at most.
pub(super) fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Behind the last star, and what it has swallowed so far.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        if n == name.len() && p == pattern.len() {
            return true;
        }
        match name.get(n).and_then(|byte| one(&pattern[p..], *byte)) {
            Some(len) => (p, n) = (p + len, n + 1),
            None => match star {
                Some((after, swallowed)) if swallowed < name.len() => {
                    star = Some((after, swallowed + 1));
                    (p, n) = (after, swallowed + 1);
                }
                _ => return false,
            },
        }
    }
}

/// How much of the pattern stands for `byte`, if its beginning does.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        b'[' => match set(pattern, byte) {
            Some((len, true)) => Some(len),
            Some((_, false)) => None,
            // Nothing closes it: a bracket like any other character.
            None => (byte == b'[').then_some(1),
        },
        plain => (plain == byte).then_some(1),
    }
}

/// The length of the set in brackets that the pattern begins with, and whether `byte` is in it.
fn set(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    // A bracket that comes first is one of the set.
    let close = first + 1 + pattern.get(first + 1..)?.iter().position(|b| *b == b']')?;
    let (mut at, mut found) = (first, false);
    while at < close {
        let low = pattern[at];
        if at + 2 < close && pattern[at + 1] == b'-' {
            found |= (low..=pattern[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= low == byte;
            at += 1;
        }
    }
    Some((close + 1, found != negated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_a_shell_would_have_them_fit() {
        let fit = [
            ("", ""),
            ("*", ""),
            ("*", "abc"),
            ("*.so*", "libc.so.6"),
            ("lib?.so", "libc.so"),
            ("a*b*c", "aXbbYc"),
            ("[abc]x", "bx"),
            ("[a-c][!0-9]", "cz"),
            ("[a-c]", "b"),
            ("[xa-c]", "b"),
            ("[a-cx]z", "xz"),
            ("[axc]", "x"),
            ("[a-]", "-"),
            ("[a-]", "a"),
            ("[]x]", "]"),
            ("[!]x]y", "ay"),
            ("[]", "[]"),
            ("[!]", "[!]"),
            ("*a*ab", "aaab"),
            ("\\[a]", "[a]"),
            ("[^a]", "b"),
            ("a\\*b", "a*b"),
            ("[ab", "[ab"),
            ("**", "x"),
            ("a\\", "a\\"),
        ];
        for (pattern, name) in fit {
            assert!(fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        let unfit = [
            ("", "a"),
            ("?", ""),
            ("a*b", "abc"),
            ("[abc]x", "dx"),
            ("[a-c]", "d"),
            ("[a-c]", "-"),
            ("[c-a]", "a"),
            ("[!a-cx]", "x"),
            ("[axc]", "b"),
            ("[a-]", "b"),
            ("[a]", "]"),
            ("[!]x]", "]"),
            ("*a", "ab"),
            ("\\?", "x"),
            ("[!a]", "a"),
            ("a\\*b", "axb"),
            ("[ab", "a"),
            ("abc", "ab"),
        ];
        for (pattern, name) in unfit {
            assert!(!fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        let long = "a".repeat(20_000);
        assert!(!fits("*a".repeat(50).as_bytes(), format!("{long}b").as_bytes()), "ends soon");
        assert!([&b"a*"[..], b"a?", b"[", b"\\a"].into_iter().all(is_pattern) && !is_pattern(b"libstdc++.so.6]"));
    }
}
