//! Puts mutants into a copy of the core, all of them, each behind its number: `mutants ROOT < LIST > PLACES`.
//!
//! LIST is what `cargo mutants --list --json` prints. The files it names below ROOT are rewritten so that a mutant is
//! what runs if `crate::mutants::on` says its number, its place in the list. PLACES tells where in the new files each
//! mutant stands, so that what the compiler refuses can be laid to the mutant that it comes from.

mod edit;
mod sites;

use std::collections::BTreeMap;
use std::io::Read;
use std::process::ExitCode;

use serde_json::{json, Value};

/// One mutant of the list that is to be put in.
pub struct Mutant {
    /// Its place in the list.
    number: usize,
    /// What cargo-mutants calls its kind: `FnValue`, `BinaryOperator` and so on.
    genre: String,
    /// The text that it has in place of the original's.
    replacement: String,
    /// First line (from 1) and column (from 1, in characters) of what it replaces.
    start: (usize, usize),
    /// Where what it replaces ends, likewise, exclusive.
    end: (usize, usize),
}

fn main() -> ExitCode {
    let Some(root) = std::env::args().nth(1) else {
        eprintln!("usage: mutants ROOT < LIST > PLACES");
        return ExitCode::FAILURE;
    };
    match rewrite(&root) {
        Ok(places) => {
            println!("{places}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rewrite(root: &str) -> Result<Value, Box<dyn std::error::Error>> {
    let mut list = String::new();
    std::io::stdin().read_to_string(&mut list)?;
    let mut files: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
    for (number, entry) in serde_json::from_str::<Vec<Value>>(&list)?.iter().enumerate() {
        // What an earlier round has refused keeps its number and is left out.
        if entry["without"].is_string() {
            continue;
        }
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("a mutant lacks a text");
        let place = |value: &Value| Some((value["line"].as_u64()? as usize, value["column"].as_u64()? as usize));
        let mutant = Mutant {
            number,
            genre: text(&entry["genre"])?,
            replacement: text(&entry["replacement"])?,
            start: place(&entry["span"]["start"]).ok_or("a mutant lacks its start")?,
            end: place(&entry["span"]["end"]).ok_or("a mutant lacks its end")?,
        };
        files.entry(text(&entry["file"])?).or_default().push(mutant);
    }
    let (mut places, mut refused) = (Vec::new(), Vec::new());
    for (file, mutants) in files {
        let path = format!("{root}/{file}");
        let original = std::fs::read_to_string(&path)?;
        let found = sites::find(&original, mutants).map_err(|error| format!("{file}: {error}"))?;
        refused.extend(found.refused.iter().map(|(number, why)| json!({"number": number, "why": why})));
        let (text, ranges) = edit::apply(&original, &found.sites);
        std::fs::write(&path, text)?;
        places.extend(ranges.into_iter().map(|range| {
            json!({"file": file, "numbers": range.numbers, "kind": range.kind, "start": range.start, "end": range.end})
        }));
    }
    Ok(json!({"places": places, "refused": refused}))
}
