//! Fuzzes the texts of the network that the core reads: URLs, proxies and what is excepted from them, dates, ranges.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlaybd::fetch::fuzzed_texts;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    fuzzed_texts(std::array::from_fn(|_| lines.next().unwrap_or("")));
});
