//! Writes what the chart holds that is made from other files: `cargo run -p bascule-tests --example chart`. With the argument
//! `manifests` it writes the plain manifests instead, which takes helm.

use anyhow::Result;
use bascule_tests::{chart, helm};

fn main() -> Result<()> {
    let files = if std::env::args().nth(1).as_deref() == Some("manifests") {
        helm::manifests()?
    } else {
        chart::files()?
    };
    for (path, content) in files {
        let path = chart::root().join(path);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder"))?;
        std::fs::write(&path, content)?;
        println!("{}", path.display());
    }
    Ok(())
}
