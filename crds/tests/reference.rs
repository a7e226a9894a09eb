//! The reference in docs/ says what the types say.

#[expect(dead_code, reason = "its main is for `cargo run --example reference`")]
#[path = "../examples/reference.rs"]
mod reference;

#[test]
fn the_reference_is_up_to_date() {
    let written = include_str!("../../docs/reference/manifests.md");
    assert!(
        reference::render() == written,
        "docs/reference/manifests.md is out of date: run `make generate`"
    );
}
