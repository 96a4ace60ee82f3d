//! Medians and quartiles of a few values.

use serde::Serialize;

/// How values are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Least.
    pub min: f64,
    /// A quarter is no greater.
    pub lower_quartile: f64,
    /// Half is no greater.
    pub median: f64,
    /// Three quarters are no greater.
    pub upper_quartile: f64,
    /// Greatest.
    pub max: f64,
}

impl Spread {
    /// The spread of at least one value.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn of(values: &[f64]) -> Spread {
        assert!(!values.is_empty(), "a spread is of at least one value");
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share| quantile(&sorted, share);
        Spread {
            min: at(0.0),
            lower_quartile: at(0.25),
            median: at(0.5),
            upper_quartile: at(0.75),
            max: at(1.0),
        }
    }
}

/// The quantile of sorted values, straight between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    let weight = place - place.floor();
    sorted[below] + (sorted[above] - sorted[below]) * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_number_of_values_has_one_in_the_middle() {
        let spread = Spread::of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        let expected =
            Spread { min: 1.0, lower_quartile: 2.0, median: 3.0, upper_quartile: 4.0, max: 5.0 };
        assert_eq!(spread, expected);
    }

    #[test]
    fn an_even_number_is_split_between_two() {
        let spread = Spread::of(&[4.0, 1.0, 2.0, 3.0]);
        assert_eq!((spread.lower_quartile, spread.median), (1.75, 2.5));
        assert_eq!(Spread::of(&[7.0]).upper_quartile, 7.0);
    }
}
