//! Writes what is made from the types of the scenario language: its JSON Schema, and its reference as Markdown.
//! `make generate` calls it; tests/generated.rs holds the committed files to it.

mod page;

use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    for (path, content) in files() {
        std::fs::write(&path, content)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The files and what is in them.
pub(crate) fn files() -> [(PathBuf, String); 2] {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema = bascule_lab::scenario::schema::schema();
    [
        (lab.join("schema/scenario.schema.json"), bascule_lab::scenario::schema::text()),
        (lab.join("../docs/reference/scenarios.md"), page::render(schema)),
    ]
}
