//! Layer ids: 16 bytes, and their 36-character text.
//!
//! Format: lsmt, "UUID strings".

use std::fmt;

use crate::error::{Error, Kind, Result};

/// Characters of the text form.
pub const TEXT_BYTES: usize = 36;

/// Positions of the dashes in the text form.
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// A layer id. Shown in upper case, as upstream writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The null id, of layers that nobody gave one.
    pub const NULL: Uuid = Uuid([0; 16]);

    /// Reads the text form, in either case. A hex digit in the place of a dash is passed over.
    ///
    /// None if the text is anything else.
    pub fn parse(text: &[u8]) -> Option<Uuid> {
        if text.len() != TEXT_BYTES {
            return None;
        }
        let mut bytes = [0; 16];
        let mut digits = 0;
        for (at, c) in text.iter().enumerate() {
            let digit = char::from(*c).to_digit(16);
            if DASHES.contains(&at) {
                if *c != b'-' && digit.is_none() {
                    return None;
                }
                continue;
            }
            bytes[digits / 2] = bytes[digits / 2] << 4 | digit? as u8;
            digits += 1;
        }
        Some(Uuid(bytes))
    }

    /// A new random id (version 4).
    ///
    /// # Errors
    /// `Io` if the system gives no random bytes.
    pub fn random() -> Result<Uuid> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|e| Error::new(Kind::Io, "random bytes").because(e.to_string()))?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Uuid(bytes))
    }

    /// Whether this is the null id.
    pub fn is_null(&self) -> bool {
        *self == Uuid::NULL
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let text = "0A1B2C3D-1111-4222-8333-444455556666";
        let uuid = Uuid::parse(text.as_bytes()).unwrap();
        assert_eq!(uuid.0[..6], [0x0a, 0x1b, 0x2c, 0x3d, 0x11, 0x11]);
        assert_eq!(uuid.to_string(), text);
        assert_eq!(Uuid::parse(text.to_lowercase().as_bytes()), Some(uuid));
        assert_eq!(Uuid::parse(b"0A1B2C3DF1111F4222F8333F444455556666"), Some(uuid), "digits at the dashes");
        for bad in ["", "0A1B2C3D-1111-4222-8333-44445555666", "0A1B2C3D-1111-4222-8333-44445555666G"] {
            assert_eq!(Uuid::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Uuid::parse(b"0A1B2C3D:1111-4222-8333-444455556666"), None);
        assert_eq!(Uuid::NULL.to_string(), "00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn random_ids_say_version_4_and_differ() {
        let ids: Vec<Uuid> = (0..64).map(|_| Uuid::random().unwrap()).collect();
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 64);
        assert!(ids.iter().all(|id| (id.0[6] >> 4, id.0[8] >> 6) == (4, 2)), "{ids:?}");
        // All else is chance.
        let (any, all) = ids.iter().fold((0, u128::MAX), |(any, all), id| {
            let bits = u128::from_be_bytes(id.0);
            (any | bits, all & bits)
        });
        let fixed = 0xF0 << (9 * 8) | 0xC0 << (7 * 8);
        assert_eq!((any & !fixed, all & !fixed), (!fixed, 0));
    }
}
