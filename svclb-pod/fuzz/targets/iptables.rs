//! Any set of forwards makes tables whose lengths and offsets are right and which lack no rule.
#![no_main]

use libfuzzer_sys::fuzz_target;
use svclb_pod::config::Family;
use svclb_pod::iptables;
use svclb_pod::rules::Kind;
use svclb_pod_fuzz::{Service, wire};

fuzz_target!(|service: Service| {
    let Some(rules) = service.rules() else { return };
    for family in Family::ALL {
        let read = |kind| {
            let entries = iptables::encode(&rules, kind, family);
            wire::read_xtables(
                family,
                &entries.unwrap_or_else(|| panic!("{family}: {rules:?}")),
            )
        };
        let (filter, nat) = (read(Kind::Filter), read(Kind::Nat));
        let each: usize = rules
            .dnat(family)
            .map(|(to, map)| to.addresses().len() * map.ports.len())
            .sum();
        let sets = rules.address_sets().into_iter();
        let ranges: usize = sets
            .filter(|set| set.family == family)
            .flat_map(|set| &set.ranges)
            .map(|range| range.cidrs().len())
            .sum();
        assert!(nat >= each, "{nat} rules of {family} for {each}");
        assert!(
            filter >= each + ranges,
            "{filter} rules of {family} for {each} and {ranges}"
        );
    }
});
