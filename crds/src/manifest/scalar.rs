//! What a plain (unquoted) scalar means. `kubectl` reads YAML 1.1 booleans and numbers, so Bascule does: a manifest
//! must mean the same on both ways in. Timestamps stay strings, as they do there.

use serde_json::{Number, Value};

/// The value of a plain scalar.
///
/// # Errors
/// For numbers that JSON cannot hold: infinities and not-a-number.
pub(super) fn plain(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Ok(Value::Bool(true));
        }
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Ok(Value::Bool(false));
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN" => {
            return Err(format!("`{text}` is no number of JSON"));
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Ok(Value::String(text.to_owned()));
    }
    Ok(number(&text.replace('_', "")).map_or_else(|| Value::String(text.to_owned()), Value::Number))
}

/// The key that a plain scalar is. `kubectl` makes JSON of a manifest, where keys are strings: `on` becomes `true`, `010` becomes
/// `8`.
///
/// # Errors
/// For what is no key there, or one that hardly anybody could predict: nothing, and numbers that are not whole.
pub(super) fn key(text: &str) -> Result<String, String> {
    match plain(text)? {
        Value::String(text) => Ok(text),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Number(number) if number.is_i64() => Ok(number.to_string()),
        _ => Err(format!("the key `{text}` is no string: write it in quotes")),
    }
}

fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, body) = match digits.as_bytes() {
        [b'0', b'x', ..] => (16, &digits[2..]),
        [b'0', b'b', ..] => (2, &digits[2..]),
        [b'0', b'o', ..] => (8, &digits[2..]),
        [b'0', _, ..] if digits.bytes().all(|byte| byte.is_ascii_digit()) => (8, &digits[1..]),
        _ => (10, digits),
    };
    // from_str_radix takes a sign of its own, which would be a second one.
    let unsigned = body.starts_with(|c: char| c.is_ascii_alphanumeric());
    if let (true, Ok(magnitude)) = (unsigned, u64::from_str_radix(body, radix)) {
        if !negative {
            return Some(magnitude.into());
        }
        if let Ok(value) = i64::try_from(-i128::from(magnitude)) {
            return Some(value.into());
        }
    }
    let float =
        digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
            && digits.bytes().any(|byte| byte.is_ascii_digit());
    if !float {
        return None;
    }
    text.parse().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_mean_what_they_mean_to_kubectl() {
        for (text, wanted) in [
            ("80", json!(80)),
            ("-5", json!(-5)),
            ("+7", json!(7)),
            ("0x1F", json!(31)),
            ("010", json!(8)),
            ("0o17", json!(15)),
            ("0b101", json!(5)),
            ("1_000", json!(1000)),
            ("08", json!(8.0)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("on", json!(true)),
            ("No", json!(false)),
            ("~", json!(null)),
            ("", json!(null)),
            ("192.16.193.30", json!("192.16.193.30")),
            ("10.0.0.1-10.0.0.9", json!("10.0.0.1-10.0.0.9")),
            ("2001:db8::1", json!("2001:db8::1")),
            ("--5", json!("--5")),
            ("1.1b", json!("1.1b")),
            ("-", json!("-")),
            ("2026-11-22", json!("2026-11-22")),
            ("500ms", json!("500ms")),
            ("web", json!("web")),
        ] {
            assert_eq!(plain(text), Ok(wanted), "{text}");
        }
        assert!(plain(".nan").is_err());
    }

    #[test]
    fn plain_keys_become_what_kubectl_makes_of_them() {
        for (text, wanted) in
            [("on", "true"), ("No", "false"), ("010", "8"), ("-5", "-5"), ("port", "port"), ("1.1b", "1.1b")]
        {
            assert_eq!(key(text).as_deref(), Ok(wanted));
        }
        for text in ["", "~", "null", "1.5", "1e3", ".nan", "18446744073709551615"] {
            assert!(key(text).is_err(), "{text}");
        }
    }
}
