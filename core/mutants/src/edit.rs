//! Writes the mutants of a file into it; only ever adds, so that sites may lie in one another.

use crate::sites::{Kind, Site};

/// Where something of one or several mutants stands in the new file.
pub struct Range {
    /// Which mutants it is of: one for its text, all of a site for the whole of it.
    pub numbers: Vec<usize>,
    /// `text` of one mutant, or the whole `site`.
    pub kind: &'static str,
    /// Its first byte.
    pub start: usize,
    /// The byte behind its last.
    pub end: usize,
}

/// A piece of text that is put in at a byte of the original.
struct Piece {
    at: usize,
    /// What comes first at the same byte: ends of sites before begins, of inner ones before outer ones, and so on.
    order: (bool, isize),
    text: String,
    /// Of which site it is, and whether it begins or ends it.
    site: usize,
    ends: bool,
    /// Bytes of `text` that are one mutant's.
    mutants: Vec<(usize, std::ops::Range<usize>)>,
}

/// Puts the mutants of `sites` into `original`.
pub fn apply(original: &str, sites: &[Site]) -> (String, Vec<Range>) {
    let mut pieces: Vec<Piece> = sites.iter().enumerate().flat_map(|(site, what)| cut(site, what)).collect();
    pieces.sort_by_key(|piece| (piece.at, piece.order));
    let mut text = String::new();
    let mut ranges = Vec::new();
    let mut begins = vec![0; sites.len()];
    let mut done = 0;
    for piece in pieces {
        text.push_str(&original[done..piece.at]);
        done = piece.at;
        let base = text.len();
        text.push_str(&piece.text);
        for (number, range) in piece.mutants {
            ranges.push(Range {
                numbers: vec![number],
                kind: "text",
                start: base + range.start,
                end: base + range.end,
            });
        }
        if piece.ends {
            let numbers = sites[piece.site].mutants.iter().map(|(number, _)| *number).collect();
            ranges.push(Range { numbers, kind: "site", start: begins[piece.site], end: text.len() });
        } else {
            begins[piece.site] = base;
        }
    }
    text.push_str(&original[done..]);
    (text, ranges)
}

/// The pieces that a site consists of.
fn cut(site: usize, what: &Site) -> Vec<Piece> {
    let first = what.mutants[0].0;
    let switch =
        format!("crate::mutants::on(&{:?})", what.mutants.iter().map(|(number, _)| *number).collect::<Vec<_>>());
    let length = what.range.len() as isize;
    let piece = |text: String, ends: bool, mutants| {
        let (at, order) = if ends { (what.range.end, (false, length)) } else { (what.range.start, (true, -length)) };
        Piece { at, order, text, site, ends, mutants }
    };
    match what.kind {
        Kind::Guard => {
            vec![Piece { order: (false, 0), ..piece(format!(" if {switch} != {first} "), true, Vec::new()) }]
        }
        Kind::Return | Kind::Instead => {
            let returns = matches!(what.kind, Kind::Return);
            let mut text = format!("{}match {switch} {{ ", if returns { "" } else { "(" });
            let mut mutants = Vec::new();
            for (number, new) in &what.mutants {
                text.push_str(&format!("{number}u32 => {}", if returns { "return " } else { "" }));
                let start = text.len();
                text.push_str(&format!("({new})"));
                mutants.push((*number, start..text.len()));
                text.push_str(", ");
            }
            text.push_str(if returns { "_ => {} } " } else { "_ => (" });
            if returns {
                return vec![Piece { order: (true, isize::MIN), ..piece(text, false, mutants) }];
            }
            vec![piece(text, false, mutants), piece(")})".into(), true, Vec::new())]
        }
    }
}
