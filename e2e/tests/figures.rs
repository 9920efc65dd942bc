//! What the bench computes and prints, without measuring anything: its two pure modules.

#[path = "../benches/svclb/report.rs"]
mod report;
#[path = "../benches/svclb/sample.rs"]
mod sample;

use std::cell::RefCell;
use std::time::Duration;

use report::{Better, Figure, Report, Setting};
use sample::{Rounds, Samples, Side, interleave};

fn samples(values: &[f64]) -> Samples {
    Samples::from(values.to_vec())
}

#[test]
fn the_median_of_an_even_series_lies_between_the_two_in_the_middle() {
    assert_eq!(samples(&[4.0, 1.0, 3.0, 2.0]).median(), 2.5);
    assert_eq!(samples(&[9.0, 1.0, 2.0]).median(), 2.0);
    assert_eq!(samples(&[]).median(), 0.0);
}

#[test]
fn a_quantile_is_a_measurement_by_nearest_rank() {
    let hundred = Samples::of(&(1..=100).collect::<Vec<_>>(), |value| f64::from(*value));
    assert_eq!(hundred.quantile(0.5), 50.0);
    assert_eq!(hundred.quantile(0.99), 99.0);
    assert_eq!(hundred.quantile(0.999), 100.0);
    assert_eq!(hundred.quantile(1.0), 100.0);
    assert_eq!(samples(&[7.0]).quantile(0.01), 7.0);
}

#[test]
fn the_spread_is_half_the_quartiles_distance_over_the_median() {
    assert_eq!(samples(&[8.0, 9.0, 10.0, 11.0, 12.0]).spread(), Some(0.1));
    assert_eq!(samples(&[8.0]).spread(), None);
    assert_eq!(samples(&[0.0, 0.0]).spread(), None);
}

#[test]
fn every_round_runs_every_side_and_begins_with_another() {
    let order = RefCell::new(String::new());
    let side = |name: char| -> Side<'_, char> {
        let order = &order;
        Box::new(move || {
            order.borrow_mut().push(name);
            Ok(name)
        })
    };
    let rounds = Rounds {
        at_least: 1,
        at_most: 4,
        budget: Duration::from_secs(600),
    };
    let series = interleave(rounds, &mut [side('a'), side('b'), side('c')]).expect("no side fails");
    assert_eq!(*order.borrow(), "abcbaccabacb");
    assert_eq!(series, [['a'; 4], ['b'; 4], ['c'; 4]]);
}

#[test]
fn no_round_begins_after_the_budget_but_for_the_least_number() {
    let rounds = Rounds {
        at_least: 2,
        at_most: 9,
        budget: Duration::ZERO,
    };
    let series = interleave(rounds, &mut [Box::new(|| Ok(()))]).expect("no side fails");
    assert_eq!(series[0].len(), 2);
}

#[test]
fn a_ratio_above_one_is_in_our_favour_whichever_way_is_better() {
    let figure = |better| {
        Figure::new("pod", "figure", "unit", better, &samples(&[2.0]))
            .against("them", &samples(&[6.0]))
    };
    assert_eq!(figure(Better::Lower).ratio, Some(3.0));
    assert_eq!(figure(Better::Higher).ratio, Some(1.0 / 3.0));
    let nothing = Figure::new("pod", "writes", "1", Better::Lower, &samples(&[0.0]));
    assert_eq!(nothing.against("them", &samples(&[6.0])).ratio, None);
}

#[test]
fn a_figure_of_a_quantile_takes_it_of_both_sides() {
    let (ours, theirs) = (samples(&[1.0, 2.0, 9.0]), samples(&[5.0, 18.0]));
    let figure = Figure::new("control", "figure, max", "ms", Better::Lower, &ours)
        .quantile(&ours, 1.0)
        .against("them", &theirs);
    assert_eq!(
        (figure.ours, figure.theirs, figure.ratio),
        (9.0, Some(18.0), Some(2.0))
    );
    assert_eq!((figure.ours_spread, figure.theirs_spread), (None, None));
}

/// Two figures, one of them alone, with equal notes.
fn report() -> Report {
    let ours = samples(&[0.9, 1.0, 1.1]);
    Report {
        setting: Setting {
            date: "2026-11-25T04:00:00Z".to_owned(),
            facts: vec![("kernel", "Linux 6.18".to_owned())],
        },
        figures: vec![
            Figure::new("pod", "exec to rules in place", "ms", Better::Lower, &ours)
                .against("their way", &samples(&[43_641.0]))
                .note("Once."),
            Figure::new("scale", "writes", "1", Better::Lower, &ours).note("Once."),
        ],
    }
}

#[test]
fn the_markdown_is_one_aligned_table_with_numbered_notes() {
    let expected = "\
Measured 2026-11-25T04:00:00Z.

- kernel: Linux 6.18

| part  | figure                     | unit | ours | theirs |  ratio |   spread |  runs | theirs is |
| :---- | :------------------------- | :--- | ---: | -----: | -----: | -------: | ----: | :-------- |
| pod   | exec to rules in place [1] | ms   | 1.00 | 43,641 | 43,641 | ±10% / – | 3 / 1 | their way |
| scale | writes [1]                 | 1    | 1.00 |      – |      – |     ±10% |     3 | –         |

Ours and theirs are medians where the figure says nothing else; a ratio above 1 is in our favour; \
the spread is half the distance between the quartiles, of ours and of theirs.

[1] Once.
";
    assert_eq!(report().markdown(), expected);
}

#[test]
fn the_json_has_null_where_there_is_nothing_to_compare() {
    let json = serde_json::to_value(report()).expect("a report is JSON");
    let figures = &json["figures"];
    assert_eq!(figures[0]["ratio"], 43_641.0);
    assert_eq!(figures[0]["theirs"], 43_641.0);
    assert_eq!(figures[0]["better"], "lower");
    assert_eq!(figures[1]["theirs"], serde_json::Value::Null);
    assert_eq!(figures[1]["ratio"], serde_json::Value::Null);
    assert_eq!(json["setting"]["facts"][0][1], "Linux 6.18");
}
