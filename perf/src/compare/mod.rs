//! Runs operands in turns, each round a fresh process, and prints the ratio of each to the last.
//!
//! Called by main. On a machine whose speed drifts, single figures mislead; ratios of neighbours in
//! one round do not, and the spread over the rounds says how far to trust them.

use std::fmt;

use serde::Serialize;

use crate::options::CompareOptions;

pub mod operand;
pub mod outcome;
pub mod statistics;

pub use operand::{Operand, OperandError};
pub use outcome::Metric;
use statistics::Spread;

/// One operand over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct OperandResult {
    /// As it was given.
    pub operand: String,
    /// Its metric, a value a round.
    pub values: Vec<f64>,
    /// Its spread.
    pub spread: Spread,
}

/// An operand against the last one.
#[derive(Clone, Debug, Serialize)]
pub struct RatioResult {
    /// Letters of the two, such as `A/B`.
    pub name: String,
    /// The quotient of each round.
    pub values: Vec<f64>,
    /// Its spread.
    pub spread: Spread,
}

/// A finished comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What was compared.
    pub metric: Metric,
    /// Rounds.
    pub rounds: usize,
    /// The operands in the order given; the last is the reference.
    pub operands: Vec<OperandResult>,
    /// One an operand but the last.
    pub ratios: Vec<RatioResult>,
}

/// Runs a comparison.
///
/// # Errors
///
/// When an operand cannot be parsed or run, or its output lacks the metric.
pub fn run(options: &CompareOptions) -> Result<Comparison, OperandError> {
    let operands: Vec<Operand> =
        options.operands.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let mut values = vec![Vec::with_capacity(options.rounds as usize); operands.len()];
    for round in 0..options.rounds as usize {
        for turn in order_of_round(round, operands.len()) {
            let outcome = operands[turn].run(options.round_time, options.round_ramp)?;
            let value = outcome.metric(options.metric).ok_or_else(|| OperandError::NoMetric {
                operand: options.operands[turn].clone(),
                metric: options.metric,
            })?;
            values[turn].push(value);
        }
    }
    Ok(Comparison::new(options.metric, &options.operands, values))
}

/// The order of a round: as given, rotated by one more place each round, so that none of the
/// operands always follows the same other.
fn order_of_round(round: usize, operands: usize) -> impl Iterator<Item = usize> {
    (0..operands).map(move |turn| (round + turn) % operands)
}

/// The letter of an operand; past Z its number.
fn letter(index: usize) -> String {
    match u8::try_from(index) {
        Ok(index @ 0..26) => char::from(b'A' + index).to_string(),
        _ => format!("#{}", index + 1),
    }
}

impl Comparison {
    /// Computes the ratios of `values`, one list of rounds an operand.
    fn new(metric: Metric, operands: &[String], values: Vec<Vec<f64>>) -> Comparison {
        let reference = values.len() - 1;
        let ratios = (0..reference)
            .map(|index| {
                let quotients: Vec<f64> =
                    values[index].iter().zip(&values[reference]).map(|(a, b)| a / b).collect();
                RatioResult {
                    name: format!("{}/{}", letter(index), letter(reference)),
                    spread: Spread::of(&quotients),
                    values: quotients,
                }
            })
            .collect();
        let operands = operands
            .iter()
            .zip(values.iter())
            .map(|(operand, values)| OperandResult {
                operand: operand.clone(),
                values: values.clone(),
                spread: Spread::of(values),
            })
            .collect();
        Comparison { metric, rounds: values[reference].len(), operands, ratios }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (metric, rounds) = (self.metric.name(), self.rounds);
        for (index, OperandResult { operand, spread, .. }) in self.operands.iter().enumerate() {
            let (letter, Spread { median, min, max, .. }) = (letter(index), spread);
            writeln!(f, "{letter} {metric}: median {median:.1} ({min:.1} … {max:.1})  {operand}")?;
        }
        for RatioResult { name, spread, .. } in &self.ratios {
            let Spread { min, lower_quartile, median, upper_quartile, max } = spread;
            writeln!(
                f,
                "quartiles {name} {metric}: {lower_quartile:.3} … {upper_quartile:.3}\n\
                 ratio {name} {metric}: median {median:.3} ({min:.3} … {max:.3}, {rounds} rounds)"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("exec {index}")).collect()
    }

    #[test]
    fn every_operand_has_its_turn_in_every_round_and_each_place() {
        let orders: Vec<Vec<_>> = (0..3).map(|round| order_of_round(round, 3).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_own_ratios() {
        // The reference drifts by a factor of 100; the ratio of each round does not.
        let values = vec![vec![80.0, 800.0, 8_100.0], vec![100.0, 1_000.0, 10_000.0]];
        let comparison = Comparison::new(Metric::Iops, &names(2), values);
        assert_eq!(comparison.ratios.len(), 1);
        assert!((comparison.ratios[0].spread.median - 0.80).abs() < 1e-12);
        assert!((comparison.ratios[0].spread.max - 0.81).abs() < 1e-12);
        let text = comparison.to_string();
        let last = text.lines().last().unwrap();
        assert_eq!(last, "ratio A/B iops: median 0.800 (0.800 … 0.810, 3 rounds)");
    }

    #[test]
    fn a_single_operand_has_no_ratio() {
        let comparison = Comparison::new(Metric::Iops, &names(1), vec![vec![1.0]]);
        assert!(comparison.ratios.is_empty());
    }

    #[test]
    fn letters_go_on_after_z() {
        assert_eq!((letter(0), letter(25), letter(26)), ("A".into(), "Z".into(), "#27".into()));
    }
}
