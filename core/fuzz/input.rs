//! What targets of structured inputs share: numbers taken from an input, and changes to a good file.

/// The bytes of an input, taken from the front; zeros once they are used up.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether there is more.
    pub fn is_left(&self) -> bool {
        !self.0.is_empty()
    }

    /// The next bytes, as many as there are of `len`.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number of the next byte, or of eight behind it if that is a large one: small numbers take little input.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => (0..8).fold(0, |n, _| n << 8 | u64::from(self.byte())),
            small => small.into(),
        }
    }

    /// Changes `file` as long as there are changes, at most `most`: a place, how many bytes, and what is there then.
    pub fn change(&mut self, file: &mut [u8], most: usize) {
        for _ in 0..most {
            if !self.is_left() || file.is_empty() {
                break;
            }
            let at = usize::from(self.word()) % file.len();
            let len = 1 + usize::from(self.byte() % 8);
            for (place, byte) in file[at..].iter_mut().zip(self.bytes(len)) {
                *place = *byte;
            }
        }
    }
}
