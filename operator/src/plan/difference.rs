//! How what is there differs from what should be there: whether an apply mends it, or something that only others own has to be removed.

use serde_json::Value;

/// How two values differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Something is missing or has another value: an apply mends that.
    pub lacks: bool,
    /// What is there and should not be, as JSON pointers in an order in which they can be removed one by one.
    pub surplus: Vec<String>,
}

impl Difference {
    /// Between what is there and what should be, both at `path`.
    pub fn of(live: &Value, wanted: &Value, path: &str) -> Difference {
        let mut difference = Difference::default();
        difference.compare(live, wanted, path);
        difference
    }

    fn compare(&mut self, live: &Value, wanted: &Value, path: &str) {
        match (live, wanted) {
            (Value::Object(live), Value::Object(wanted)) => {
                for (key, value) in live {
                    let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                    match wanted.get(key) {
                        Some(wanted) => self.compare(value, wanted, &path),
                        None => self.surplus.push(path),
                    }
                }
                self.lacks |= wanted.keys().any(|key| !live.contains_key(key));
            }
            (Value::Array(live), Value::Array(wanted)) if is_within(wanted, live) => {
                // From the end, so that those before keep their places.
                let mut left = wanted.iter().rev().peekable();
                for (at, value) in live.iter().enumerate().rev() {
                    if left.peek() == Some(&value) {
                        left.next();
                    } else {
                        self.surplus.push(format!("{path}/{at}"));
                    }
                }
            }
            (live, wanted) => self.lacks |= live != wanted,
        }
    }
}

/// Whether the elements of `few` are among those of `many`, in their order.
fn is_within(few: &[Value], many: &[Value]) -> bool {
    let mut many = many.iter();
    few.iter().all(|one| many.any(|other| other == one))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_too_much_is_told_from_what_is_wrong() {
        for (live, wanted, lacks, surplus) in [
            (json!({"a": 1}), json!({"a": 1}), false, vec![]),
            (json!({"a": 1}), json!({"a": 2}), true, vec![]),
            (json!({}), json!({"a": 2}), true, vec![]),
            (json!({"a": 1, "b/c~": 2}), json!({"a": 1}), false, vec!["/spec/b~1c~0"]),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 1}}), false, vec!["/spec/a/c"]),
            (json!({"a": [1, 2, 3]}), json!({"a": [2]}), false, vec!["/spec/a/2", "/spec/a/0"]),
            (json!({"a": [3, 2, 1, 2]}), json!({"a": [2, 2]}), false, vec!["/spec/a/2", "/spec/a/0"]),
            (json!({"a": [1, 2]}), json!({"a": [2, 1]}), true, vec![]),
            (json!({"a": [1, 2], "b": 1}), json!({"a": [3]}), true, vec!["/spec/b"]),
        ] {
            let difference = Difference::of(&live, &wanted, "/spec");
            assert_eq!(
                (difference.lacks, difference.surplus),
                (lacks, surplus.into_iter().map(str::to_owned).collect()),
                "{live} {wanted}"
            );
        }
    }
}
