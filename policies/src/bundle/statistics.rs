//! The statistics of states and actions as `policy.toml` writes them: one kind for all entries of a list, its keys in
//! every entry.

use endplate_calibration::Quantiles;

use super::BundleError;
use super::raw::RawStatistics;
use super::spec::{choose, invalid};
use crate::normalisation::Normalisation;

/// The pair of keys of a kind, and the pairs of all kinds.
fn keys(kind: &str) -> [&'static str; 2] {
    match kind {
        "range" => ["low", "high"],
        "mean_std" => ["mean", "std"],
        "identity" => ["", ""],
        _ => ["q01", "q99"],
    }
}

/// Checks the statistics of a list: `list` is `"state"` or `"action"`, `kind` the value of `normalisation.<list>`.
pub(super) fn checked_statistics<'a>(
    list: &str,
    kind: &str,
    entries: impl Iterator<Item = (&'a str, RawStatistics)>,
) -> Result<Normalisation, BundleError> {
    let kind = choose(&format!("normalisation.{list}"), kind, &Normalisation::NAMES.map(|name| (name, name)))?;
    let [first, second] = keys(kind);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (index, (name, given)) in entries.enumerate() {
        let entry = format!("{list}[{index}] ({name})");
        let mut found = [None, None];
        for (key, value) in given.pairs() {
            let slot = if key == first {
                &mut found[0]
            } else if key == second {
                &mut found[1]
            } else if value.is_some() {
                let remedy = format!("normalisation.{list} is {kind}: remove the key, or export the bundle again");
                return Err(invalid(format!("{entry}.{key}"), "given", remedy));
            } else {
                continue;
            };
            *slot = value;
        }
        if kind == "identity" {
            continue;
        }
        let value_of = |value: Option<f64>, key: &str| {
            value.ok_or_else(|| {
                invalid(format!("{entry}.{key}"), "missing", format!("normalisation.{list} is {kind}: it needs {key}"))
            })
        };
        let (x, y) = (value_of(found[0], first)?, value_of(found[1], second)?);
        check_pair(kind, &entry, (first, x), (second, y))?;
        a.push(x);
        b.push(y);
    }
    Ok(match kind {
        "range" => Normalisation::Range { low: a, high: b },
        "mean_std" => Normalisation::MeanStd { mean: a, std: b },
        "identity" => Normalisation::Identity,
        _ => Normalisation::Quantiles(
            Quantiles::new(a, b).map_err(|error| invalid(list, "the statistics", error.to_string()))?,
        ),
    })
}

fn check_pair(kind: &str, entry: &str, first: (&str, f64), second: (&str, f64)) -> Result<(), BundleError> {
    let ((first, x), (second, y)) = (first, second);
    let refuse = |remedy: &str| Err(invalid(entry, format!("{first} = {x}, {second} = {y}"), remedy));
    if !(x.is_finite() && y.is_finite()) {
        return refuse("write finite statistics, quantiles in order; fit the statistics again");
    }
    match kind {
        // A joint that never moved in training has equal quantiles, which these statistics allow for.
        "quantiles" if x > y => refuse("write finite quantiles in order; fit the statistics again"),
        "range" if x >= y => refuse(
            "a range must be wider than nothing: a joint that never moved in training has no normalised value; fit \
             the statistics on data in which it moves, or train without it",
        ),
        "mean_std" if y <= 0.0 => refuse(
            "a standard deviation must be above 0: a joint that never moved in training has no normalised value; fit \
             the statistics on data in which it moves, or train without it",
        ),
        _ => Ok(()),
    }
}
