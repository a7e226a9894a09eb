//! The page: style, script and data in one file.

use std::io;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

const STYLE: &str = concat!(include_str!("page/style.css"), include_str!("page/parts.css"));
const BODY: &str = include_str!("page/body.html");
const SCRIPT: &str = concat!(
    "'use strict';\n",
    include_str!("page/words.js"),
    include_str!("page/base.js"),
    include_str!("page/model.js"),
    include_str!("page/verdict.js"),
    include_str!("page/topology.js"),
    include_str!("page/timeline.js"),
    include_str!("page/plots.js"),
    include_str!("page/frames.js"),
    include_str!("page/tables.js"),
    include_str!("page/main.js"),
);

/// The page with its data.
pub(super) fn page(data: &Value) -> io::Result<String> {
    let name = data.pointer("/result/name").and_then(Value::as_str).unwrap_or("bascule-lab");
    // No other script runs, whatever is in the data, and nothing is fetched.
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'",
        base64(&Sha256::digest(SCRIPT.as_bytes()))
    );
    let json = in_script(&serde_json::to_string(data)?);
    let mut page = String::with_capacity(json.len() + SCRIPT.len() + STYLE.len() + BODY.len() + 1024);
    page.push_str("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str(&format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n"));
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.push_str("<meta name=\"color-scheme\" content=\"light dark\">\n");
    page.push_str(&format!("<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n", escaped(name)));
    page.push_str(BODY);
    page.push_str("<script type=\"application/json\" id=\"data\">");
    page.push_str(&json);
    page.push_str("</script>\n<script>");
    page.push_str(SCRIPT);
    page.push_str("</script>\n</body>\n</html>\n");
    Ok(page)
}

/// Text between tags or in an attribute.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// JSON that no HTML parser sees an end, a comment or an entity in. These characters are only ever inside its strings. Those that turn the
/// direction of what is written around them become visible.
pub(super) fn in_script(json: &str) -> String {
    let mut text = String::with_capacity(json.len() + json.len() / 16);
    for c in json.chars() {
        match c {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                text.push_str(&format!("⟨U+{:04X}⟩", u32::from(c)));
            }
            other => text.push(other),
        }
    }
    text
}

/// RFC 4648 section 4.
pub(super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
