//! Any set of forwards makes tables whose lengths and offsets are right and which lack no rule.
#![no_main]

use libfuzzer_sys::fuzz_target;
use svclb_pod::config::Family;
use svclb_pod::iptables;
use svclb_pod::rules::{Kind, Rules, Statement};
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
        let each = rules.forwards.len() * destinations(&rules, family);
        let ranges: usize = rules
            .sources(family)
            .iter()
            .map(|range| range.cidrs().len())
            .sum();
        assert!(nat >= each, "{nat} rules of {family} for {each}");
        assert!(
            filter >= each + ranges,
            "{filter} rules of {family} for {each} and {ranges}"
        );
    }
});

fn destinations(rules: &Rules, family: Family) -> usize {
    let all = rules.chains.iter().flat_map(|chain| &chain.rules);
    all.filter(|rule| rule.family == Some(family))
        .map(|rule| match &rule.statement {
            Statement::Dnat { to } => to.len(),
            Statement::Accept | Statement::Drop | Statement::Masquerade => 0,
        })
        .sum()
}
