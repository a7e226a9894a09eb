//! The largest object of each kind is accepted, and is smaller than 1 MiB.

#[path = "support/largest.rs"]
mod support;

use bascule_crds::object::Kind;
use bascule_crds::validate;
use support::{MOST, largest, stored_size};

#[test]
fn the_largest_object_of_each_kind_is_accepted_and_small_enough() {
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::EndpointSlice) {
        let object = largest(kind);
        let judged = validate::judge_update(kind, &object, None).map(drop);
        if let Err(violations) = judged.and_then(|()| validate::judge_status(kind, &object["status"])) {
            let some: Vec<_> = violations.iter().take(5).map(ToString::to_string).collect();
            panic!("{kind}: {} violations, {some:#?}", violations.len());
        }
        let size = stored_size(&object);
        assert!(size < MOST, "{kind}: {size} bytes");
        println!("{kind}: {size} bytes");
    }
}

/// Were it not, something else than the test says would be measured.
#[test]
fn one_more_real_server_or_address_is_refused() {
    for (kind, list) in [
        (Kind::VirtualService, "realServers"),
        (Kind::VirtualService, "addresses"),
        (Kind::VrrpGroup, "members"),
    ] {
        let mut object = largest(kind);
        let list = object["spec"][list].as_array_mut().expect("a list");
        list.push(list[0].clone());
        assert!(validate::judge_update(kind, &object, None).is_err(), "{kind}");
    }
}
