//! The login of one connection, request by request.
//!
//! RFC 7143 sections 6.3 (phases), 11.12 and 11.13 (flags and status), 12 (security keys).

use super::chap::{Algorithm, CHALLENGE_BYTES, CHALLENGE_BYTES_MAX, Credentials, is_same};
use super::keys::{Parameters, RECEIVE_BYTES_MAX, Reply};
use crate::text::{self, Pair};

/// Requests that a login may take.
const REQUESTS_MAX: u32 = 16;
/// Longest iSCSI name (RFC 7143 section 4.2.7.2).
const NAME_BYTES_MAX: usize = 223;

/// A stage of login, as in CSG and NSG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Who is it?
    Security = 0,
    /// How to go on?
    Operational = 1,
    /// Login is over.
    FullFeature = 3,
}

impl Stage {
    /// The stage of two bits.
    pub fn from_bits(bits: u8) -> Option<Stage> {
        match bits & 3 {
            0 => Some(Stage::Security),
            1 => Some(Stage::Operational),
            3 => Some(Stage::FullFeature),
            _ => None,
        }
    }
}

/// Class and detail of a login response (RFC 7143 section 11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginStatus(pub u16);

impl LoginStatus {
    /// Success.
    pub const SUCCESS: LoginStatus = LoginStatus(0x0000);
    /// The initiator broke the protocol.
    pub const INITIATOR_ERROR: LoginStatus = LoginStatus(0x0200);
    /// Authentication failed.
    pub const AUTHENTICATION: LoginStatus = LoginStatus(0x0201);
    /// The initiator may not use the target.
    pub const AUTHORIZATION: LoginStatus = LoginStatus(0x0202);
    /// There is no such target.
    pub const NOT_FOUND: LoginStatus = LoginStatus(0x0203);
    /// The version is not supported.
    pub const VERSION: LoginStatus = LoginStatus(0x0205);
    /// Too many connections.
    pub const TOO_MANY: LoginStatus = LoginStatus(0x0206);
    /// A key is missing.
    pub const MISSING: LoginStatus = LoginStatus(0x0207);
    /// The session type is not supported.
    pub const SESSION_TYPE: LoginStatus = LoginStatus(0x0209);
    /// There is no such session.
    pub const NO_SESSION: LoginStatus = LoginStatus(0x020a);
    /// The target has no room.
    pub const NO_RESOURCES: LoginStatus = LoginStatus(0x0302);
}

/// What the session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// To learn which targets there are.
    Discovery,
    /// To use the target of this index.
    Normal(usize),
}

/// What a login has to know of the targets.
pub trait Directory {
    /// The index of a target, if there is one of the name.
    fn find(&self, target: &str) -> Option<usize>;

    /// Whether an initiator may use a target.
    fn allows(&self, target: usize, initiator: &str) -> bool;

    /// What an initiator has to prove there; nothing where everybody is let in.
    fn credentials(&self, kind: SessionKind) -> Option<&Credentials>;

    /// The tag of the portal group.
    fn portal_group(&self) -> u16;
}

/// A request, as far as the header says something.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Flags: transit, continue, both stages.
    pub flags: u8,
    /// Lowest version that the initiator has.
    pub version_min: u8,
    /// Session handle; zero for a new session.
    pub tsih: u16,
    /// The text, all of it.
    pub text: &'a [u8],
}

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it went.
    pub status: LoginStatus,
    /// Flags: transit and both stages.
    pub flags: u8,
    /// The text.
    pub text: Vec<u8>,
    /// The login is complete.
    pub is_complete: bool,
}

/// How far CHAP is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    /// Nothing has been agreed.
    None,
    /// CHAP was chosen; the algorithm is due.
    Chosen,
    /// A challenge is out.
    Challenged { algorithm: Algorithm, identifier: u8, challenge: [u8; CHALLENGE_BYTES] },
    /// The initiator is who it says, or need not prove it.
    Done,
}

/// The login of one connection.
#[derive(Clone, Debug)]
pub struct Login {
    stage: Stage,
    proof: Proof,
    requests: u32,
    has_declared: bool,
    /// It has failed: nothing that comes later makes it good.
    has_failed: bool,
    /// The initiator's name, once it has said it.
    pub initiator: String,
    /// What the session is for, once it has said it.
    pub kind: Option<SessionKind>,
    /// What was negotiated.
    pub parameters: Parameters,
}

impl Default for Login {
    fn default() -> Login {
        Login {
            stage: Stage::Security,
            proof: Proof::None,
            requests: 0,
            has_declared: false,
            has_failed: false,
            initiator: String::new(),
            kind: None,
            parameters: Parameters::default(),
        }
    }
}

const TRANSIT: u8 = 0x80;
const CONTINUE: u8 = 0x40;

impl Login {
    /// Takes the next request. `random` fills a challenge with bytes that nobody can guess.
    pub fn take(
        &mut self,
        ask: Ask<'_>,
        directory: &impl Directory,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Answer {
        let mut text = Vec::new();
        match self.step(ask, directory, random, &mut text) {
            Ok((flags, is_complete)) => {
                Answer { status: LoginStatus::SUCCESS, flags, text, is_complete }
            }
            Err(status) => {
                self.has_failed = true;
                Answer { status, flags: 0, text: Vec::new(), is_complete: false }
            }
        }
    }

    fn step(
        &mut self,
        ask: Ask<'_>,
        directory: &impl Directory,
        random: &mut dyn FnMut(&mut [u8]),
        text: &mut Vec<u8>,
    ) -> Result<(u8, bool), LoginStatus> {
        if self.has_failed {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        self.requests += 1;
        let is_first = self.requests == 1;
        let current = Stage::from_bits(ask.flags >> 2).ok_or(LoginStatus::INITIATOR_ERROR)?;
        let next = Stage::from_bits(ask.flags).ok_or(LoginStatus::INITIATOR_ERROR)?;
        let wants_transit = ask.flags & TRANSIT != 0;
        if ask.version_min > 0 {
            return Err(LoginStatus::VERSION);
        }
        let is_backward = wants_transit && next as u8 <= current as u8;
        let is_split = ask.flags & CONTINUE != 0;
        if self.requests > REQUESTS_MAX || current == Stage::FullFeature || is_backward || is_split
        {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        let pairs = text::parse(ask.text).map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        if is_first {
            self.identify(ask.tsih, &pairs, directory)?;
            self.stage = current;
            if let Some(SessionKind::Normal(_)) = self.kind {
                let tag = directory.portal_group().to_string();
                text::push(text, "TargetPortalGroupTag", &tag);
            }
        }
        if current != self.stage {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        match current {
            Stage::Security => self.secure(&pairs, directory, random, text)?,
            _ => self.operate(&pairs, directory, text)?,
        }
        let may_leave = current != Stage::Security || self.is_proved(directory);
        let current_bits = (current as u8) << 2;
        if !wants_transit || !may_leave {
            return Ok((current_bits, false));
        }
        self.stage = next;
        let is_complete = next == Stage::FullFeature;
        if is_complete {
            self.parameters = self.parameters.settled();
        }
        Ok((TRANSIT | current_bits | next as u8, is_complete))
    }

    fn credentials<'a>(&self, directory: &'a impl Directory) -> Option<&'a Credentials> {
        directory.credentials(self.kind.unwrap_or(SessionKind::Discovery))
    }

    fn is_proved(&self, directory: &impl Directory) -> bool {
        self.proof == Proof::Done || self.credentials(directory).is_none()
    }

    /// The first request says who asks for what.
    fn identify(
        &mut self,
        tsih: u16,
        pairs: &[Pair<'_>],
        directory: &impl Directory,
    ) -> Result<(), LoginStatus> {
        let find = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let initiator = find("InitiatorName").ok_or(LoginStatus::MISSING)?;
        if initiator.is_empty() || initiator.len() > NAME_BYTES_MAX {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        self.initiator = initiator.to_ascii_lowercase();
        let kind = match find("SessionType") {
            Some("Discovery") => SessionKind::Discovery,
            None | Some("Normal") => {
                let target = find("TargetName").ok_or(LoginStatus::MISSING)?;
                let target = directory.find(&target.to_ascii_lowercase());
                let target = target.ok_or(LoginStatus::NOT_FOUND)?;
                if !directory.allows(target, &self.initiator) {
                    return Err(LoginStatus::AUTHORIZATION);
                }
                SessionKind::Normal(target)
            }
            Some(_) => return Err(LoginStatus::SESSION_TYPE),
        };
        // One connection a session: there is none to be joined.
        if tsih != 0 {
            return Err(LoginStatus::NO_SESSION);
        }
        self.kind = Some(kind);
        Ok(())
    }

    fn secure(
        &mut self,
        pairs: &[Pair<'_>],
        directory: &impl Directory,
        random: &mut dyn FnMut(&mut [u8]),
        text: &mut Vec<u8>,
    ) -> Result<(), LoginStatus> {
        let find = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let credentials = self.credentials(directory);
        for (key, value) in pairs {
            match *key {
                "AuthMethod" => {
                    let wanted = if credentials.is_some() { "CHAP" } else { "None" };
                    if !value.split(',').any(|one| one == wanted) {
                        return Err(LoginStatus::AUTHENTICATION);
                    }
                    text::push(text, key, wanted);
                    let is_chap = credentials.is_some();
                    self.proof = if is_chap { Proof::Chosen } else { Proof::Done };
                }
                "CHAP_A" | "CHAP_I" | "CHAP_C" | "CHAP_N" | "CHAP_R" => {}
                _ => self.take_operational(key, value, text),
            }
        }
        let Some(credentials) = credentials else { return Ok(()) };
        if let Some(list) = find("CHAP_A") {
            if self.proof != Proof::Chosen {
                return Err(LoginStatus::INITIATOR_ERROR);
            }
            let algorithm = Algorithm::choose(list).ok_or(LoginStatus::AUTHENTICATION)?;
            let mut bytes = [0; CHALLENGE_BYTES + 1];
            random(&mut bytes);
            let [identifier, challenge @ ..] = bytes;
            text::push(text, "CHAP_A", &(algorithm as u8).to_string());
            text::push(text, "CHAP_I", &identifier.to_string());
            text::push(text, "CHAP_C", &text::hexadecimal(&challenge));
            self.proof = Proof::Challenged { algorithm, identifier, challenge };
        } else if let Some(response) = find("CHAP_R") {
            self.prove(response, pairs, credentials, text)?;
        }
        Ok(())
    }

    /// The response to the challenge, and the challenge for the target if there is one.
    fn prove(
        &mut self,
        response: &str,
        pairs: &[Pair<'_>],
        credentials: &Credentials,
        text: &mut Vec<u8>,
    ) -> Result<(), LoginStatus> {
        let find = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        const FAILED: LoginStatus = LoginStatus::AUTHENTICATION;
        let Proof::Challenged { algorithm, identifier, challenge } =
            std::mem::replace(&mut self.proof, Proof::None)
        else {
            return Err(LoginStatus::INITIATOR_ERROR);
        };
        let name = find("CHAP_N").ok_or(FAILED)?;
        let given = text::binary(response).ok_or(FAILED)?;
        let expected = algorithm.response(identifier, &credentials.secret, &challenge);
        // Both are always looked at, so that time does not say which is wrong.
        let is_name = is_same(name.as_bytes(), credentials.name.as_bytes());
        if !(is_same(&given, &expected) & is_name) {
            return Err(FAILED);
        }
        if let (Some(identifier), Some(theirs)) = (find("CHAP_I"), find("CHAP_C")) {
            let (name, secret) = credentials.mutual.as_ref().ok_or(FAILED)?;
            let theirs = text::binary(theirs).ok_or(FAILED)?;
            let identifier = text::number(identifier).and_then(|one| u8::try_from(one).ok());
            let identifier = identifier.ok_or(FAILED)?;
            // Our own challenge sent back would make us answer for the initiator.
            if theirs.len() > CHALLENGE_BYTES_MAX || theirs == challenge {
                return Err(FAILED);
            }
            let response = algorithm.response(identifier, secret, &theirs);
            text::push(text, "CHAP_N", name);
            text::push(text, "CHAP_R", &text::hexadecimal(&response));
        }
        self.proof = Proof::Done;
        Ok(())
    }

    fn operate(
        &mut self,
        pairs: &[Pair<'_>],
        directory: &impl Directory,
        text: &mut Vec<u8>,
    ) -> Result<(), LoginStatus> {
        if !self.is_proved(directory) {
            return Err(LoginStatus::AUTHENTICATION);
        }
        for (key, value) in pairs {
            self.take_operational(key, value, text);
        }
        if !std::mem::replace(&mut self.has_declared, true) {
            text::push(text, "MaxRecvDataSegmentLength", &RECEIVE_BYTES_MAX.to_string());
        }
        Ok(())
    }

    fn take_operational(&mut self, key: &str, value: &str, text: &mut Vec<u8>) {
        if let Reply::Value(answer) = self.parameters.take(key, value) {
            text::push(text, key, &answer);
        }
    }
}

#[cfg(test)]
mod tests;
