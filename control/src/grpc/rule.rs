//! Rules of faults and delays, from messages and back.

use api::v1;
use bdev::{Operation, OperationSet, Status};
use engine::command::{CommandError, Count, Failure, Lateness, Match, Rule, RuleSet};
use reactor::Nanos;

use super::request::invalid;

/// Highest value of the field for the type of a status code (NVMe Base 2.0 section 3.3.3.2.1).
const STATUS_CODE_TYPE_MAX: u32 = 7;

/// Each operation, and what messages call it.
const OPERATIONS: [(v1::Operation, Operation); 8] = [
    (v1::Operation::Read, Operation::Read),
    (v1::Operation::Write, Operation::Write),
    (v1::Operation::Flush, Operation::Flush),
    (v1::Operation::WriteZeroes, Operation::WriteZeroes),
    (v1::Operation::Unmap, Operation::Unmap),
    (v1::Operation::Compare, Operation::Compare),
    (v1::Operation::CompareAndWrite, Operation::CompareAndWrite),
    (v1::Operation::Verify, Operation::Verify),
];

pub(super) fn faults(rules: &v1::FaultRules) -> Result<RuleSet<Failure>, CommandError> {
    let one = |rule: &v1::FaultRule| -> Result<Rule<Failure>, CommandError> {
        let meets = meets(rule.meets.as_ref())?;
        let status = status(rule.status_code_type, rule.status_code)?;
        let effect = match v1::FaultMoment::try_from(rule.moment) {
            Ok(v1::FaultMoment::Before) => Failure::Before(status),
            Ok(v1::FaultMoment::After) => Failure::After(status),
            Ok(v1::FaultMoment::Unspecified) | Err(_) => {
                let advice = "choose BEFORE (1) or AFTER (2)";
                return Err(invalid("moment", rule.moment, advice));
            }
        };
        Ok(Rule { meets, effect })
    };
    let seed = rules.seed;
    Ok(RuleSet { rules: rules.rules.iter().map(one).collect::<Result<_, _>>()?, seed })
}

pub(super) fn delays(rules: &v1::DelayRules) -> Result<RuleSet<Lateness>, CommandError> {
    let one = |rule: &v1::DelayRule| -> Result<Rule<Lateness>, CommandError> {
        let (least, most) = (Nanos(rule.least_ns), Nanos(rule.most_ns));
        let effect =
            if least == most { Lateness::Fixed(least) } else { Lateness::Uniform { least, most } };
        Ok(Rule { meets: meets(rule.meets.as_ref())?, effect })
    };
    let seed = rules.seed;
    Ok(RuleSet { rules: rules.rules.iter().map(one).collect::<Result<_, _>>()?, seed })
}

fn status(code_type: u32, code: u32) -> Result<Status, CommandError> {
    if code_type > STATUS_CODE_TYPE_MAX {
        let advice = "a status code type is 0 to 7";
        return Err(invalid("status_code_type", code_type, advice));
    }
    let Ok(code) = u8::try_from(code) else {
        return Err(invalid("status_code", code, "a status code is 0 to 255"));
    };
    let code_type = u16::try_from(code_type).expect("at most 7");
    Ok(Status::from_code(code_type << u8::BITS | u16::from(code)))
}

fn meets(message: Option<&v1::Match>) -> Result<Match, CommandError> {
    let every = Match::default();
    let Some(message) = message else { return Ok(every) };
    let end = match message.blocks {
        None => every.lbas.end,
        Some(blocks) => message.first_block.checked_add(blocks).ok_or_else(|| {
            invalid("blocks", blocks, "a range ends at block 18446744073709551615 at the latest")
        })?,
    };
    let count = match message.count {
        None => Count::Always,
        Some(v1::r#match::Count::First(number)) => Count::First(number),
        Some(v1::r#match::Count::Every(number)) => Count::Every(number),
    };
    Ok(Match {
        operations: operations(&message.operations)?,
        lbas: message.first_block..end,
        count,
        probability: message.probability.unwrap_or(every.probability),
    })
}

fn operations(values: &[i32]) -> Result<OperationSet, CommandError> {
    if values.is_empty() {
        return Ok(OperationSet::ALL);
    }
    let known = |value: &i32| OPERATIONS.iter().any(|(name, _)| *name as i32 == *value);
    if let Some(unknown) = values.iter().find(|value| !known(value)) {
        return Err(invalid("operations", unknown, "choose READ (1) to VERIFY (8)"));
    }
    let unwanted = OPERATIONS.iter().filter(|(name, _)| !values.contains(&(*name as i32)));
    Ok(unwanted.fold(OperationSet::ALL, |set, (_, operation)| set.without(*operation)))
}

pub(super) fn faults_message(set: &RuleSet<Failure>) -> v1::FaultRules {
    let one = |rule: &Rule<Failure>| {
        let (moment, status) = match rule.effect {
            Failure::Before(status) => (v1::FaultMoment::Before, status),
            Failure::After(status) => (v1::FaultMoment::After, status),
        };
        v1::FaultRule {
            meets: Some(match_message(&rule.meets)),
            moment: moment.into(),
            status_code_type: u32::from(status.code() >> u8::BITS),
            status_code: u32::from(status.status_code()),
        }
    };
    v1::FaultRules { rules: set.rules.iter().map(one).collect(), seed: set.seed }
}

pub(super) fn delays_message(set: &RuleSet<Lateness>) -> v1::DelayRules {
    let one = |rule: &Rule<Lateness>| {
        let (least, most) = match rule.effect {
            Lateness::Fixed(time) => (time, time),
            Lateness::Uniform { least, most } => (least, most),
        };
        let meets = Some(match_message(&rule.meets));
        v1::DelayRule { meets, least_ns: least.0, most_ns: most.0 }
    };
    v1::DelayRules { rules: set.rules.iter().map(one).collect(), seed: set.seed }
}

fn match_message(meets: &Match) -> v1::Match {
    let every = Match::default();
    let all = meets.operations == OperationSet::ALL;
    let wanted = OPERATIONS.iter().filter(|(_, one)| !all && meets.operations.contains(*one));
    let has_end = meets.lbas.end != every.lbas.end;
    v1::Match {
        operations: wanted.map(|(name, _)| (*name).into()).collect(),
        first_block: meets.lbas.start,
        blocks: has_end.then_some(meets.lbas.end.saturating_sub(meets.lbas.start)),
        count: match meets.count {
            Count::Always => None,
            Count::First(number) => Some(v1::r#match::Count::First(number)),
            Count::Every(number) => Some(v1::r#match::Count::Every(number)),
        },
        probability: (meets.probability != every.probability).then_some(meets.probability),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault() -> v1::FaultRule {
        v1::FaultRule {
            meets: None,
            moment: v1::FaultMoment::Before.into(),
            status_code_type: 2,
            status_code: 0x81,
        }
    }

    fn refused(rule: v1::FaultRule) -> &'static str {
        let rules = v1::FaultRules { rules: vec![fault(), rule], seed: 1 };
        faults(&rules).unwrap_err().field().unwrap()
    }

    #[test]
    fn a_status_is_held_to_its_range() {
        let rules = v1::FaultRules { rules: vec![fault()], seed: 7 };
        let set = faults(&rules).unwrap();
        assert_eq!((set.seed, set.rules[0].effect), (7, Failure::Before(Status::from_code(0x281))));
        let largest = v1::FaultRule { status_code_type: 7, status_code: 255, ..fault() };
        assert!(faults(&v1::FaultRules { rules: vec![largest], seed: 0 }).is_ok());
        assert_eq!(refused(v1::FaultRule { status_code_type: 8, ..fault() }), "status_code_type");
        assert_eq!(refused(v1::FaultRule { status_code: 256, ..fault() }), "status_code");
        assert_eq!(refused(v1::FaultRule { moment: 0, ..fault() }), "moment");
    }

    #[test]
    fn a_range_of_blocks_ends_where_numbers_do() {
        let range = |first_block, blocks| {
            let meets = v1::Match { first_block, blocks: Some(blocks), ..Default::default() };
            v1::FaultRule { meets: Some(meets), ..fault() }
        };
        let fits = v1::FaultRules { rules: vec![range(1, u64::MAX - 1)], seed: 0 };
        assert_eq!(faults(&fits).unwrap().rules[0].meets.lbas, 1..u64::MAX);
        assert_eq!(refused(range(2, u64::MAX - 1)), "blocks");
    }

    #[test]
    fn an_operation_that_is_none_is_refused() {
        let meets = v1::Match { operations: vec![1, 9], ..Default::default() };
        assert_eq!(refused(v1::FaultRule { meets: Some(meets), ..fault() }), "operations");
    }

    fn any_match() -> impl Strategy<Value = v1::Match> {
        let count = prop_oneof![
            Just(None),
            any::<u64>().prop_map(|number| Some(v1::r#match::Count::First(number))),
            any::<u64>().prop_map(|number| Some(v1::r#match::Count::Every(number))),
        ];
        let operations = proptest::sample::subsequence(vec![1, 2, 3, 4, 5, 6, 7, 8], 0..8);
        let blocks = proptest::option::of(0..u64::from(u32::MAX));
        let chance = proptest::option::of(0.0..1.0);
        (operations, 0..u64::from(u32::MAX), blocks, count, chance).prop_map(
            |(operations, first_block, blocks, count, probability)| v1::Match {
                operations,
                first_block,
                blocks,
                count,
                probability,
            },
        )
    }

    proptest! {
        #[test]
        fn rules_come_back_as_they_were_set(
            matches in proptest::collection::vec(any_match(), 0..5),
            seed: u64,
            least_ns: u32,
            more_ns: u32,
        ) {
            let (least_ns, most_ns) =
                (u64::from(least_ns), u64::from(least_ns) + u64::from(more_ns));
            let late = |meets| v1::DelayRule { meets: Some(meets), least_ns, most_ns };
            let sent = v1::DelayRules { rules: matches.iter().cloned().map(late).collect(), seed };
            prop_assert_eq!(delays_message(&delays(&sent).unwrap()), sent);
            let failing = |meets| v1::FaultRule { meets: Some(meets), ..fault() };
            let sent = v1::FaultRules { rules: matches.into_iter().map(failing).collect(), seed };
            prop_assert_eq!(faults_message(&faults(&sent).unwrap()), sent);
        }
    }
}
