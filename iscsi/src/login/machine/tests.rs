//! Logins as initiators do them, and as they should not.

use proptest::prelude::*;

use super::super::chap::Secret;
use super::*;

const TARGET: &str = "iqn.2019-05.io.openebs:disk";

#[derive(Default)]
struct Targets {
    credentials: Option<Credentials>,
}

impl Directory for Targets {
    fn find(&self, target: &str) -> Option<usize> {
        (target == TARGET).then_some(0)
    }

    fn allows(&self, _: usize, initiator: &str) -> bool {
        initiator != "iqn.stranger"
    }

    fn credentials(&self, kind: SessionKind) -> Option<&Credentials> {
        self.credentials.as_ref().filter(|_| kind != SessionKind::Discovery)
    }

    fn portal_group(&self) -> u16 {
        1
    }
}

fn secret(byte: u8) -> Secret {
    Secret::new(&[byte; 12]).unwrap()
}

fn closed() -> Targets {
    let mutual = Some(("target".to_owned(), secret(2)));
    Targets { credentials: Some(Credentials { name: "user".into(), secret: secret(1), mutual }) }
}

fn keys(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    pairs.iter().for_each(|(key, value)| text::push(&mut bytes, key, value));
    bytes
}

fn take(login: &mut Login, targets: &Targets, flags: u8, pairs: &[(&str, &str)]) -> Answer {
    let text = keys(pairs);
    let ask = Ask { flags, version_min: 0, tsih: 0, text: &text };
    login.take(ask, targets, &mut |bytes| bytes.fill(9))
}

fn names() -> [(&'static str, &'static str); 2] {
    [("InitiatorName", "iqn.host"), ("TargetName", TARGET)]
}

fn said(answer: &Answer, key: &str) -> Option<String> {
    let pairs = text::parse(&answer.text).unwrap();
    pairs.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
}

#[test]
fn an_open_target_is_entered_in_one_step() {
    let mut login = Login::default();
    let answer = take(&mut login, &Targets::default(), 0x87, &names());
    assert!(answer.is_complete && answer.flags == 0x87);
    assert_eq!(said(&answer, "TargetPortalGroupTag").as_deref(), Some("1"));
    assert_eq!(said(&answer, "MaxRecvDataSegmentLength").as_deref(), Some("131072"));
    assert_eq!(login.kind, Some(SessionKind::Normal(0)));
}

#[test]
fn what_is_missing_or_unknown_is_said() {
    let targets = Targets::default();
    let status = |pairs: &[(&str, &str)]| take(&mut Login::default(), &targets, 0x87, pairs).status;
    assert_eq!(status(&[("TargetName", TARGET)]), LoginStatus::MISSING);
    assert_eq!(status(&[("InitiatorName", "iqn.a")]), LoginStatus::MISSING);
    let [initiator, target] = names();
    assert_eq!(status(&[initiator, ("TargetName", "iqn.b")]), LoginStatus::NOT_FOUND);
    assert_eq!(status(&[initiator, ("SessionType", "X")]), LoginStatus::SESSION_TYPE);
    let stranger = ("InitiatorName", "iqn.stranger");
    assert_eq!(status(&[stranger, target]), LoginStatus::AUTHORIZATION);
    let discovery =
        take(&mut Login::default(), &targets, 0x87, &[initiator, ("SessionType", "Discovery")]);
    assert!(discovery.is_complete);
}

#[test]
fn a_closed_target_cannot_be_entered_around_security() {
    let answer = take(&mut Login::default(), &closed(), 0x87, &names());
    assert_eq!(answer.status, LoginStatus::AUTHENTICATION);
    let mut login = Login::default();
    let answer = take(&mut login, &closed(), 0x81, &names());
    assert_eq!((answer.status, answer.flags), (LoginStatus::SUCCESS, 0));
    let [initiator, target] = names();
    let plain = [initiator, target, ("AuthMethod", "None")];
    let answer = take(&mut Login::default(), &closed(), 0x81, &plain);
    assert_eq!(answer.status, LoginStatus::AUTHENTICATION);
}

/// Goes as far as the challenge.
fn challenged(algorithm: &str) -> (Login, Algorithm, u8, Vec<u8>) {
    let mut login = Login::default();
    let [initiator, target] = names();
    let first = [initiator, target, ("AuthMethod", "CHAP,None")];
    let answer = take(&mut login, &closed(), 0x81, &first);
    assert_eq!((said(&answer, "AuthMethod").as_deref(), answer.flags), (Some("CHAP"), 0));
    let answer = take(&mut login, &closed(), 0, &[("CHAP_A", algorithm)]);
    let chosen = Algorithm::choose(&said(&answer, "CHAP_A").unwrap()).unwrap();
    let identifier = said(&answer, "CHAP_I").unwrap().parse().unwrap();
    let challenge = text::binary(&said(&answer, "CHAP_C").unwrap()).unwrap();
    (login, chosen, identifier, challenge)
}

#[test]
fn who_knows_the_secret_enters_and_learns_that_the_target_knows_its_own() {
    for list in ["5", "7,5"] {
        let (mut login, algorithm, identifier, challenge) = challenged(list);
        let proof = algorithm.response(identifier, &secret(1), &challenge);
        let answer = take(
            &mut login,
            &closed(),
            0x81,
            &[
                ("CHAP_N", "user"),
                ("CHAP_R", &text::hexadecimal(&proof)),
                ("CHAP_I", "7"),
                ("CHAP_C", "0x0102"),
            ],
        );
        assert_eq!((answer.status, answer.flags), (LoginStatus::SUCCESS, 0x81));
        let expected = text::hexadecimal(&algorithm.response(7, &secret(2), &[1, 2]));
        assert_eq!(said(&answer, "CHAP_R"), Some(expected));
        assert!(take(&mut login, &closed(), 0x87, &[]).is_complete);
    }
}

#[test]
fn wrong_names_wrong_proofs_and_reflected_challenges_fail_alike() {
    let (_, algorithm, identifier, challenge) = challenged("5");
    let right = text::hexadecimal(&algorithm.response(identifier, &secret(1), &challenge));
    let wrong = text::hexadecimal(&algorithm.response(identifier, &secret(3), &challenge));
    let reflected = text::hexadecimal(&challenge);
    let mutual = [("CHAP_I", "1"), ("CHAP_C", reflected.as_str())];
    let tries: [&[(&str, &str)]; 5] = [
        &[("CHAP_N", "user"), ("CHAP_R", &wrong)],
        &[("CHAP_N", "other"), ("CHAP_R", &right)],
        &[("CHAP_R", &right)],
        &[("CHAP_N", "user"), ("CHAP_R", "0x")],
        &[("CHAP_N", "user"), ("CHAP_R", &right), mutual[0], mutual[1]],
    ];
    for pairs in tries {
        let answer = take(&mut challenged("5").0, &closed(), 0x81, pairs);
        assert_eq!(answer.status, LoginStatus::AUTHENTICATION);
        assert!(answer.text.is_empty());
    }
}

#[test]
fn a_login_that_has_failed_stays_so() {
    let mut login = Login::default();
    assert_eq!(take(&mut login, &closed(), 0, &[]).status, LoginStatus::MISSING);
    for pairs in [&[][..], &names()] {
        let answer = take(&mut login, &closed(), 0x87, pairs);
        assert_eq!(answer.status, LoginStatus::INITIATOR_ERROR);
    }
}

#[test]
fn a_login_does_not_go_on_for_ever() {
    let mut login = Login::default();
    for _ in 0..REQUESTS_MAX {
        let answer = take(&mut login, &Targets::default(), 4, &names());
        assert_eq!(answer.status, LoginStatus::SUCCESS);
    }
    let answer = take(&mut login, &Targets::default(), 4, &names());
    assert_eq!(answer.status, LoginStatus::INITIATOR_ERROR);
}

proptest! {
    #[test]
    fn nobody_enters_a_closed_target_by_chance(
        asks in proptest::collection::vec((any::<u8>(), any::<Vec<u8>>(), any::<bool>()), 1..6),
    ) {
        let (mut login, targets) = (Login::default(), closed());
        for (flags, noise, is_named) in asks {
            let text = if is_named { keys(&names()) } else { noise };
            let ask = Ask { flags, version_min: 0, tsih: 0, text: &text };
            prop_assert!(!login.take(ask, &targets, &mut |bytes| bytes.fill(1)).is_complete);
        }
    }
}
