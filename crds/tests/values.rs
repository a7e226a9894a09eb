//! The types of single values say the same as their schemas and as the CEL rules on them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bascule_crds::common::{AddressOrRange, AddressPrefix, Duration, Family};
use bascule_crds::manifest;
use bascule_crds::validate::judge;
use proptest::prelude::*;
use serde_json::{Value, json};

fn service(addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VirtualService", "metadata": {"name": "web"},
        "spec": {
            "director": {"name": "dir1"},
            "addresses": addresses,
            "ports": [{"port": 80, "protocol": "TCP"}],
            "realServers": [{"name": "a", "address": "10.0.0.1"}, {"name": "b", "address": "2001:db8::1"}],
        },
    })
}

fn accepts(address: &str) -> bool {
    judge(&service(&[address])).is_ok()
}

#[test]
fn durations_are_those_of_the_gateway_api() {
    for (text, milliseconds, written) in [
        ("0s", 0, "0s"),
        ("100ms", 100, "100ms"),
        ("1m30s", 90_000, "1m30s"),
        ("90s", 90_000, "1m30s"),
        ("1500ms", 1500, "1s500ms"),
        ("24h", 86_400_000, "24h"),
        ("1s1h", 3_601_000, "1h1s"),
    ] {
        let duration: Duration = text.parse().expect(text);
        assert_eq!(duration, Duration::from_millis(milliseconds), "{text}");
        assert_eq!(duration.to_string(), written, "{text}");
    }
    for text in ["", "1", "s", "1.5s", "-1s", "1S", "1 s", "100000s", "1h1m1s1ms1h", "1us"] {
        assert!(text.parse::<Duration>().is_err(), "{text}");
    }
}

#[test]
fn prefixes_have_lengths_and_networks_contain_addresses() {
    let prefix = |text: &str| text.parse::<AddressPrefix>();
    assert_eq!(prefix("192.0.2.1").expect("a host").to_string(), "192.0.2.1/32");
    assert_eq!(prefix("2001:db8::1").expect("a host").length, 128);
    for bad in ["192.0.2.1/33", "192.0.2.1/", "192.0.2.1/-1", "/24", "2001:db8::/129", "a/8"] {
        assert!(prefix(bad).is_err(), "{bad}");
    }
    for (network, address, inside) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("0.0.0.0/0", "11.0.0.1", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("2001:db8::/32", "2001:db8:ffff::1", true),
        ("10.0.0.5/32", "10.0.0.5", true),
    ] {
        let address: IpAddr = address.parse().expect("an address");
        assert_eq!(prefix(network).expect("a network").contains(address), inside, "{network} {address}");
    }
}

#[test]
fn a_range_is_all_its_addresses() {
    let range: AddressOrRange = "10.0.0.254-10.0.0.255".parse().expect("a range");
    assert_eq!(
        range.addresses().map(|address| address.to_string()).collect::<Vec<_>>(),
        ["10.0.0.254", "10.0.0.255"]
    );
    assert!(range.contains("10.0.0.254".parse().expect("an address")));
    assert!(!range.contains("::a00:fe".parse().expect("an address")));
    let last: AddressOrRange = "255.255.255.255".parse().expect("an address");
    assert_eq!(last.addresses().count(), 1);
    assert_eq!(last.to_string(), "255.255.255.255");
    assert_eq!("10.0.0.1-10.0.0.1".parse::<AddressOrRange>().expect("a range").to_string(), "10.0.0.1");
    for bad in ["10.0.0.2-10.0.0.1", "10.0.0.1-::1", "10.0.0.1-", "-10.0.0.1", "a-b"] {
        assert!(bad.parse::<AddressOrRange>().is_err(), "{bad}");
    }
}

/// From 1.0.0.0 to 223.255.255.255: others are no machine's.
fn v4() -> impl Strategy<Value = Ipv4Addr> {
    (0x0100_0000..0xe000_0000_u32).prop_map(Ipv4Addr::from)
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    // Few bits set, so that runs of zeros and all their ways to be written come up.
    (any::<u128>(), any::<u128>(), any::<u128>()).prop_map(|(a, b, c)| Ipv6Addr::from(a & b & c))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn durations_are_read_as_they_are_written(milliseconds in 0..=86_400_000_u64 * 365) {
        let duration = Duration::from_millis(milliseconds);
        prop_assert_eq!(duration.to_string().parse::<Duration>(), Ok(duration));
    }

    #[test]
    fn a_text_is_a_duration_for_the_type_if_and_only_if_it_is_one_for_the_schema(text in "[0-9]{0,6}(h|m|s|ms|x)?[0-9]{0,2}(h|m|s|ms)?") {
        let mut value = service(&["10.0.0.1"]);
        value["spec"]["drain"] = json!({"timeout": text});
        let fits = text.parse::<Duration>().is_ok_and(|duration| duration <= Duration::from_secs(86_400));
        prop_assert_eq!(judge(&value).is_ok(), fits, "{}", text);
    }

    #[test]
    fn ipv4_ranges_are_accepted_within_a_24_from_low_to_high(base in v4(), first: u8, last: u8, third: bool) {
        let [a, b, c, _] = base.octets();
        let range = format!("{a}.{b}.{c}.{first}-{a}.{b}.{}.{last}", if third { c ^ 1 } else { c });
        prop_assert_eq!(accepts(&range), !third && first <= last, "{}", range);
    }

    #[test]
    fn ipv6_ranges_are_accepted_within_a_120_from_low_to_high(base in v6(), first: u8, last: u8) {
        let at = |low: u8| Ipv6Addr::from(u128::from(base) & !0xff | u128::from(low));
        let range = format!("{}-{}", at(first), at(last));
        // An IPv4 address inside IPv6 is refused; Rust writes the deprecated form with dots, which is not the shortest.
        prop_assume!(!range.contains('.') && !base.is_multicast());
        prop_assert_eq!(accepts(&range), first <= last, "{}", range);
    }

    #[test]
    fn what_the_schema_accepts_as_a_range_has_at_most_256_addresses(one in v4(), two in v4(), near: bool) {
        let two = if near { Ipv4Addr::from(u32::from(one).wrapping_add(u32::from(two) % 600)) } else { two };
        let range = format!("{one}-{two}");
        if accepts(&range) {
            let parsed: AddressOrRange = range.parse().expect("the type takes what the schema takes");
            prop_assert!(parsed.addresses().count() <= 256);
            prop_assert_eq!(parsed.family(), Family::IPv4);
        }
    }

    /// Whatever is in a field of a real manifest, it is judged, and what is accepted can be decoded.
    #[test]
    fn random_values_in_fields_are_survived(path in 0..6_usize, text in ".{0,40}") {
        let mut value = service(&["10.0.0.1"]);
        let parsed = manifest::parse(&text).ok().and_then(|mut documents| documents.pop());
        let random = parsed.map_or(Value::Null, |document| document.value);
        let place = match path {
            0 => &mut value["spec"]["addresses"][0],
            1 => &mut value["spec"]["ports"][0]["port"],
            2 => &mut value["spec"]["realServers"][0]["address"],
            3 => &mut value["spec"]["persistence"],
            4 => &mut value["metadata"],
            _ => &mut value["spec"],
        };
        *place = random;
        if let Err(violations) = judge(&value) {
            prop_assert!(!violations.is_empty());
            prop_assert!(violations.iter().all(|violation| !violation.message.contains("invalid type")), "{:?}", violations);
        }
    }
}
