//! What is generated from the types of the scenario language and committed says what the types say.

#[expect(dead_code, reason = "its main is for `cargo run --example generate`")]
#[path = "../examples/generate/main.rs"]
mod generate;

#[test]
fn the_generated_files_are_up_to_date() {
    for (path, content) in generate::files() {
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == content, "{} is out of date: run `make generate`", path.display());
    }
}
