//! Parts of a whole, and rates.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::value::as_string;

/// A part of a hundred: `30%`, `0.5%`; up to three digits after the point, more than 0, at most 100.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(
    /// In thousandths of a percent.
    pub u32,
);

impl Percent {
    /// All of them.
    pub const ALL: Self = Self(100_000);

    /// As a part of one.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 100_000.0
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a part of a hundred above 0, such as `30%` or `0.5%`");
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, rest) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str, most| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits(whole, 3) || !digits(rest, 3) {
            return Err(wrong());
        }
        let thousandths = format!("{whole}{rest:0<3}").parse().map_err(|_| wrong())?;
        if thousandths == 0 || thousandths > Self::ALL.0 { Err(wrong()) } else { Ok(Self(thousandths)) }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        let rest = format!("{rest:03}");
        match rest.trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            rest => write!(f, "{whole}.{rest}%"),
        }
    }
}

impl fmt::Debug for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bits a second as tc(8) writes them: `512kbit`, `10mbit`, `1gbit`; at most 10 Gbit/s, at least 8 kbit/s.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(
    /// Bits a second.
    pub u64,
);

const RATES: [(u64, &str); 3] = [(1_000_000_000, "gbit"), (1_000_000, "mbit"), (1000, "kbit")];

impl FromStr for BitRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a rate from `8kbit` to `10gbit`, such as `512kbit` or `10mbit`");
        let (number, unit) = RATES
            .iter()
            .find_map(|(unit, name)| Some((text.strip_suffix(name)?, *unit)))
            .ok_or_else(wrong)?;
        if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let rate = number.parse::<u64>().map_err(|_| wrong())? * unit;
        if (8000..=10_000_000_000).contains(&rate) { Ok(Self(rate)) } else { Err(wrong()) }
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RATES.iter().find(|(unit, _)| self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}bit", self.0),
        }
    }
}

impl fmt::Debug for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

as_string!(Percent, "percent", "A part of a hundred: `30%`, `0.5%`; above 0, at most `100%`.");
as_string!(BitRate, "bitrate", "Bits a second: `512kbit`, `10mbit`, `1gbit`; from `8kbit` to `10gbit`.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_hundred_and_rates_read_and_print() {
        for (text, thousandths) in [("30%", 30_000), ("0.5%", 500), ("0.001%", 1), ("100%", 100_000)] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!((percent.0, percent.to_string().as_str()), (thousandths, text));
        }
        for text in ["", "30", "0%", "101%", "-1%", "1.%", ".5%", "0.0001%", "1e1%", "100.001%", "+1%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
        for (text, bits) in
            [("8kbit", 8000), ("512kbit", 512_000), ("10mbit", 10_000_000), ("10gbit", 10_000_000_000)]
        {
            let rate: BitRate = text.parse().unwrap();
            assert_eq!((rate.0, rate.to_string().as_str()), (bits, text));
        }
        assert_eq!("1000kbit".parse::<BitRate>().unwrap().to_string(), "1mbit");
        for text in ["", "10", "7kbit", "11gbit", "1.5mbit", "-1mbit", "10mbps", "kbit", "999999999kbit"] {
            assert!(text.parse::<BitRate>().is_err(), "{text}");
        }
    }
}
