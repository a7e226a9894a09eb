//! Writes the generated files of this crate: `cargo run -p bascule-crds --example generate`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, content) in bascule_crds::generate::files() {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder"))?;
        std::fs::write(&path, content)?;
        println!("{}", path.display());
    }
    Ok(())
}
