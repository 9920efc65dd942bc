//! Any set of forwards makes a transaction whose lengths and nesting are right and which lacks none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use svclb_pod::config::Family;
use svclb_pod::nftables;
use svclb_pod_fuzz::{Service, wire};

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM`
const NEW_ELEMENTS: u16 = 10 << 8 | 12;
const ACKNOWLEDGE: u16 = 4;
/// `NFTA_SET_ELEM_LIST_SET`, `NFTA_SET_ELEM_LIST_ELEMENTS`, `NFTA_SET_ELEM_FLAGS`
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const FLAGS: u16 = 3;

fuzz_target!(|service: Service| {
    let Some(rules) = service.rules() else { return };
    let messages = wire::read_netlink(nftables::replace(&rules).bytes());
    assert_eq!(messages.first().map(|message| message.kind), Some(BEGIN));
    assert_eq!(messages.last().map(|message| message.kind), Some(END));
    let acknowledged: Vec<_> = (0..messages.len())
        .filter(|index| messages[*index].flags & ACKNOWLEDGE != 0)
        .collect();
    assert_eq!(acknowledged, [messages.len() - 2]);

    let elements = |suffix: &str, ends: bool| -> usize {
        let lists = messages
            .iter()
            .filter(|message| message.kind == NEW_ELEMENTS);
        lists
            .filter(|list| {
                let mut sets = list.attributes.iter().filter(|it| it.kind == LIST_SET);
                sets.any(|set| String::from_utf8_lossy(&set.bytes).contains(suffix))
            })
            .flat_map(|list| list.attributes.iter().filter(|it| it.kind == LIST_ELEMENTS))
            .flat_map(|list| &list.held)
            .filter(|element| element.get(FLAGS).next().is_some() == ends)
            .count()
    };
    let ports: usize = rules.port_maps().iter().map(|map| map.ports.len()).sum();
    assert_eq!(elements("-ports", false), ports);
    for (family, name) in [(Family::V4, "sources4"), (Family::V6, "sources6")] {
        let sets = rules.address_sets().into_iter();
        let of_family = sets.filter(|set| set.family == family);
        let ranges: Vec<_> = of_family.flat_map(|set| &set.ranges).collect();
        // Every range has a first element, and one after its last address if there is one.
        assert_eq!(elements(name, false), ranges.len());
        let ended = ranges.iter().filter(|range| range.end().is_some()).count();
        assert_eq!(elements(name, true), ended);
    }
});
