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
    /// A mirror against what it could be at best, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ideal: Option<RatioResult>,
}

/// Operands that the ideal of a mirror is made of: mirror, one copy on its path, one in process.
const IDEAL_OPERANDS: usize = 3;

/// Runs a comparison.
///
/// # Errors
///
/// When an operand cannot be parsed or run, its output lacks the metric, or what the ideal of a
/// mirror is made of is not there.
pub fn run(options: &CompareOptions) -> Result<Comparison, OperandError> {
    let operands: Vec<Operand> =
        options.operands.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let is_rate = options.metric == Metric::Iops;
    if options.copies.is_some() && (operands.len() != IDEAL_OPERANDS || !is_rate) {
        return Err(OperandError::Ideal { operands: operands.len() });
    }
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
    let ideal = options.copies.map(|copies| over_ideal(copies, &values));
    Ok(Comparison { ideal, ..Comparison::new(options.metric, &options.operands, values) })
}

/// The rate of a mirror over the ideal one, in each round: the ideal takes for an I/O what one copy
/// takes on the same path, and for each further copy what one takes in process.
fn over_ideal(copies: u32, values: &[Vec<f64>]) -> RatioResult {
    let [mirror, path, process] = values else { unreachable!("there are three operands") };
    let rounds = mirror.iter().zip(path).zip(process);
    let values: Vec<f64> = rounds
        .map(|((mirror, path), process)| mirror * (1.0 / path + f64::from(copies - 1) / process))
        .collect();
    RatioResult { name: String::from("A/ideal"), spread: Spread::of(&values), values }
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
        Comparison { metric, rounds: values[reference].len(), operands, ratios, ideal: None }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (metric, rounds) = (self.metric.name(), self.rounds);
        for (index, OperandResult { operand, spread, .. }) in self.operands.iter().enumerate() {
            let (letter, Spread { median, min, max, .. }) = (letter(index), spread);
            writeln!(f, "{letter} {metric}: median {median:.1} ({min:.1} … {max:.1})  {operand}")?;
        }
        for RatioResult { name, spread, .. } in self.ratios.iter().chain(&self.ideal) {
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
    use clap::Parser;

    use super::*;
    use crate::options::{Cli, Command};

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
    fn the_ideal_of_a_mirror_adds_a_copy_in_process_for_each_further_one() {
        // 5 us on the path and 1 us in process make 7 us ideally; the mirror takes 8 and 7.
        let values = vec![vec![125_000.0, 1e6 / 7.0], vec![200_000.0; 2], vec![1e6; 2]];
        let ideal = over_ideal(3, &values);
        assert!((ideal.values[0] - 7.0 / 8.0).abs() < 1e-9, "{ideal:?}");
        assert!((ideal.values[1] - 1.0).abs() < 1e-9, "{ideal:?}");
        let alone = over_ideal(1, &values);
        assert!((alone.values[0] - 5.0 / 8.0).abs() < 1e-9, "{alone:?}");
    }

    #[test]
    fn the_ideal_needs_three_operands_and_a_rate() {
        let parse = |line: &str| {
            let words = ["mayastor-perf", "compare", "--copies", "3"].into_iter();
            match Cli::try_parse_from(words.chain(line.split(' '))).unwrap().command {
                Command::Compare(options) => options,
                command => panic!("{command:?}"),
            }
        };
        for line in ["echo echo", "--metric mean_latency echo echo echo"] {
            assert!(matches!(run(&parse(line)), Err(OperandError::Ideal { .. })), "{line}");
        }
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
