//! Hexadecimal digits.

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Bytes of an even number of digits.
pub(crate) fn decode(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
            _ => None,
        })
        .collect()
}

/// Bytes of an even number of digits, each with the mask of its bits that count: `?` stands for any digit.
pub(crate) fn decode_pattern(digits: &str) -> Option<Vec<(u8, u8)>> {
    let half = |digit: u8| if digit == b'?' { Some((0, 0)) } else { Some((nibble(digit)?, 0xf)) };
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => {
                let (high, low) = (half(*high)?, half(*low)?);
                Some((high.0 << 4 | low.0, high.1 << 4 | low.1))
            }
            _ => None,
        })
        .collect()
}

/// Digits of bytes, in lower case.
pub(crate) fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(decode("00fFa0"), Some(vec![0, 0xff, 0xa0]));
        assert_eq!(encode(&[0, 0xff, 0xa0]), "00ffa0");
        assert_eq!(decode(""), Some(vec![]));
        assert_eq!(decode("0"), None);
        assert_eq!(decode("é"), None);
        assert_eq!(decode("+1"), None);
        assert_eq!(decode_pattern("?1"), Some(vec![(1, 0x0f)]));
    }
}
