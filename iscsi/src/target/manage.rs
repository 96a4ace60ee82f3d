//! Requests beside commands: login, text, NOP, task management, logout.
//!
//! Called in the receive phase with the whole request; none of it is on the path of I/O. RFC 7143
//! sections 11.5, 11.10 to 11.15, 11.18.

use std::io::Read;
use std::sync::Arc;

use bdev::reservation::{Registrant, RegistrantId, RegistrantName};
use uuid::Uuid;
use zerocopy::{FromBytes, IntoBytes};

use super::connection::{Connection, Management, Phase, Session, SessionUnit};
use super::core::Message;
use super::description::{PORTAL_GROUP, decode_lun};
use super::receive::Step;
use super::respond::PROTOCOL_ERROR;
use super::send::Payload;
use super::sessions::{Place, SessionKey};
use super::slot::SlotState;
use crate::login::{Answer, Ask, Login, LoginStatus, SessionKind};
use crate::pdu::{
    LoginRequest, LoginResponse, LogoutRequest, LogoutResponse, NopIn, NopOut, RESERVED_TAG,
    TargetOpcode, TaskManagementRequest, TaskManagementResponse, TextRequest, TextResponse, flag,
};
use crate::text;

/// Function responses (RFC 7143 section 11.6.1).
const COMPLETE: u8 = 0;
const NO_TASK: u8 = 1;
const NO_UNIT: u8 = 2;
const NOT_SUPPORTED: u8 = 5;

/// The namespace of the names of I_T nexuses.
const NEXUS_NAMESPACE: Uuid = Uuid::from_u128(0x6d61_7961_7374_6f72_6973_6373_695f_6974);

/// Whom reservations know an initiator port by at a target port: its name and session identifier
/// (RFC 7143 section 4.4.2; SPC-4 section 7.6.4.6 for its TransportID).
fn registrant(initiator: &str, isid: &[u8; 6], target: &str) -> Registrant {
    let isid: String = isid.iter().map(|byte| format!("{byte:02x}")).collect();
    let port = format!("{initiator},i,0x{isid}");
    let id = Uuid::new_v5(&NEXUS_NAMESPACE, format!("{port} {target}").as_bytes());
    let mut name = port.into_bytes();
    name.resize((name.len() + 1).next_multiple_of(4).max(20), 0);
    let len = u16::try_from(name.len()).expect("a name is short").to_be_bytes();
    let bytes = [&PORTAL_GROUP.to_be_bytes()[..], &[0x45, 0], &len, &name].concat();
    // Without a name, a full status has nothing to say of it; that is all.
    let name = RegistrantName::new(&bytes).unwrap_or_default();
    Registrant { id: RegistrantId::scsi(*id.as_bytes()), name }
}

impl Connection {
    /// A login request.
    pub(super) fn take_login(&mut self, step: &mut Step<'_>, text: &[u8]) {
        let request = LoginRequest::read_from_bytes(&self.header).expect("a header has 48 bytes");
        let Phase::Login(login, _) = &mut self.phase else { return };
        let mut login: Box<Login> = std::mem::take(login);
        let (flags, version_min, tsih) = (request.flags, request.version_min, request.tsih.get());
        let ask = Ask { flags, version_min, tsih, text };
        let description = Arc::clone(&step.core.description);
        let source = &mut step.core.random_source;
        let mut random = |bytes: &mut [u8]| {
            source.read_exact(bytes).expect("the system's random bytes never end");
        };
        let mut answer = login.take(ask, &*description, &mut random);
        self.expected_command_sn = request.command_sn.get();
        let mut tsih = 0;
        let session =
            if answer.is_complete { self.enter(step, &login, &request) } else { Ok(None) };
        let session = match session {
            Ok(Some((handle, session))) => {
                tsih = handle;
                Some(session)
            }
            Ok(None) => None,
            Err(status) => {
                let text = Vec::new();
                answer = Answer { status, flags: 0, text, is_complete: false };
                None
            }
        };
        let header = LoginResponse {
            opcode: TargetOpcode::Login as u8,
            flags: answer.flags,
            data_bytes: u32::try_from(answer.text.len()).expect("an answer is short").into(),
            isid: request.isid,
            tsih: tsih.into(),
            task_tag: request.task_tag,
            stat_sn: self.next_stat_sn().into(),
            expected_command_sn: self.expected_command_sn.into(),
            max_command_sn: self.max_command_sn().into(),
            status_class: (answer.status.0 >> 8) as u8,
            status_detail: answer.status.0 as u8,
            ..LoginResponse::default()
        };
        let payload = match answer.text.is_empty() {
            true => Payload::None,
            false => Payload::Own(answer.text.into()),
        };
        self.enqueue(step, header.as_bytes(), payload, None);
        if answer.status != LoginStatus::SUCCESS {
            step.cx.counters.protocol_errors += 1;
            self.finish(step.cx.now());
        } else if let Some(session) = session {
            let generation = step.cx.random.next_u64() as u32;
            self.establish(session, login.parameters, generation);
        } else if let Phase::Login(place, _) = &mut self.phase {
            *place = login;
        }
    }

    /// The login is complete: opens the session.
    fn enter(
        &mut self,
        step: &mut Step<'_>,
        login: &Login,
        request: &LoginRequest,
    ) -> Result<Option<(u16, Session)>, LoginStatus> {
        let kind = login.kind.ok_or(LoginStatus::INITIATOR_ERROR)?;
        let target = match kind {
            SessionKind::Discovery => None,
            SessionKind::Normal(target) => Some(target),
        };
        let isid = request.isid;
        let key = SessionKey { initiator: login.initiator.clone(), isid, target };
        let place = Place { core: step.core.peers.own(), connection: step.id };
        let mut units = Vec::new();
        if let Some(target) = target {
            let description = Arc::clone(&step.core.description);
            let target = &description.targets()[target];
            for (number, unit) in &target.units {
                let root = step.core.roots.find_or_open(step.cx, unit);
                let root = root.map_err(|_| LoginStatus::NO_RESOURCES)?;
                let registrant = registrant(&login.initiator, &isid, &target.name);
                let nexus = unit.attach(registrant);
                units.push(SessionUnit { number: *number, unit: Arc::clone(unit), nexus, root });
            }
        }
        let Some((tsih, old)) = step.core.sessions.open(key, place) else {
            units.iter().for_each(|one| one.unit.detach(&one.nexus));
            return Err(LoginStatus::NO_RESOURCES);
        };
        if let Some(Place { core, connection }) = old {
            step.core.send_message(core, Message::Close(connection));
        }
        Ok(Some((tsih, Session { kind, units, place })))
    }

    /// A text request: which targets are there?
    pub(super) fn take_text(&mut self, step: &mut Step<'_>, text: &[u8]) {
        let request = TextRequest::read_from_bytes(&self.header).expect("a header has 48 bytes");
        if !self.is_in_order(request.opcode, request.command_sn.get()) {
            return;
        }
        let is_split = request.flags & flag::CONTINUE != 0;
        let (Ok(pairs), false) = (text::parse(text), is_split) else {
            return self.reject(step, PROTOCOL_ERROR);
        };
        let mut answer = Vec::new();
        for (key, value) in pairs {
            match key {
                "SendTargets" => self.send_targets(step, value, &mut answer),
                _ => text::push(&mut answer, key, "NotUnderstood"),
            }
        }
        let header = TextResponse {
            opcode: TargetOpcode::Text as u8,
            flags: flag::FINAL,
            data_bytes: u32::try_from(answer.len()).expect("an answer is short").into(),
            task_tag: request.task_tag,
            transfer_tag: RESERVED_TAG.into(),
            stat_sn: self.next_stat_sn().into(),
            expected_command_sn: self.expected_command_sn.into(),
            max_command_sn: self.max_command_sn().into(),
            ..TextResponse::default()
        };
        self.enqueue(step, header.as_bytes(), Payload::Own(answer.into()), None);
    }

    /// RFC 7143 appendix C. What an initiator may not use it is not told of.
    fn send_targets(&self, step: &Step<'_>, wanted: &str, answer: &mut Vec<u8>) {
        let own = match self.session.as_ref().map(|session| session.kind) {
            Some(SessionKind::Normal(target)) => Some(target),
            _ => None,
        };
        let Some(address) = self.socket.as_ref().map(|socket| socket.local()) else { return };
        let address = format!("{address},{PORTAL_GROUP}");
        for (index, target) in step.core.description.targets().iter().enumerate() {
            let is_wanted = match (wanted, own) {
                ("All", None) => true,
                ("", Some(own)) => own == index,
                (name, None) => name == target.name,
                (name, Some(own)) => own == index && (name == target.name || name == "All"),
            };
            let longest = self.parameters.send_bytes_max as usize;
            let has_room = answer.len() + target.name.len() + address.len() + 32 <= longest;
            if is_wanted && has_room {
                text::push(answer, "TargetName", &target.name);
                text::push(answer, "TargetAddress", &address);
            }
        }
    }

    /// NOP-Out: a ping is answered with its data.
    pub(super) fn take_nop(&mut self, step: &mut Step<'_>, data: &[u8]) {
        let request = NopOut::read_from_bytes(&self.header).expect("a header has 48 bytes");
        if !self.is_in_order(request.opcode, request.command_sn.get()) {
            return;
        }
        if request.task_tag.get() == RESERVED_TAG {
            return;
        }
        let data = &data[..data.len().min(self.parameters.send_bytes_max as usize)];
        let header = NopIn {
            opcode: TargetOpcode::NopIn as u8,
            flags: flag::FINAL,
            data_bytes: u32::try_from(data.len()).expect("a ping is short").into(),
            lun: request.lun,
            task_tag: request.task_tag,
            transfer_tag: RESERVED_TAG.into(),
            stat_sn: self.next_stat_sn().into(),
            expected_command_sn: self.expected_command_sn.into(),
            max_command_sn: self.max_command_sn().into(),
            ..NopIn::default()
        };
        self.enqueue(step, header.as_bytes(), Payload::Own(data.into()), None);
    }

    /// A task management function.
    pub(super) fn take_management(&mut self, step: &mut Step<'_>) {
        let request =
            TaskManagementRequest::read_from_bytes(&self.header).expect("a header has 48 bytes");
        if !self.is_in_order(request.opcode, request.command_sn.get()) {
            return;
        }
        let Some(session) = self.session.as_ref() else { return };
        let number = decode_lun(request.lun.get());
        let unit = session.units.iter().position(|unit| Some(unit.number) == number);
        let response = match (request.function & 0x7f, unit) {
            (1, _) => self.abort_task(step, request.referenced_tag.get()),
            (2 | 4 | 5, None) => NO_UNIT,
            (2 | 4, Some(unit)) => {
                self.abort_where(step, |one| one == unit);
                COMPLETE
            }
            (5, Some(unit)) => {
                self.abort_where(step, |one| one == unit);
                self.reset_units(|one| one == unit);
                COMPLETE
            }
            (6 | 7, _) => {
                self.abort_where(step, |_| true);
                self.reset_units(|_| true);
                COMPLETE
            }
            _ => NOT_SUPPORTED,
        };
        self.managing.push(Management { task_tag: request.task_tag.get(), response });
        self.finish_management(step);
    }

    fn reset_units(&self, is_meant: impl Fn(usize) -> bool) {
        let units = self.session.iter().flat_map(|session| &session.units).enumerate();
        units.filter(|(index, _)| is_meant(*index)).for_each(|(_, one)| one.unit.reset());
    }

    fn abort_task(&mut self, step: &mut Step<'_>, task_tag: u32) -> u8 {
        let is_it = |one: &super::slot::Slot| {
            one.task_tag == task_tag
                && matches!(one.state, SlotState::Receiving | SlotState::InDevice)
        };
        let Some(slot) = self.slots.iter().position(is_it) else { return NO_TASK };
        self.abort(step, u16::try_from(slot).expect("slots are few"));
        COMPLETE
    }

    fn abort_where(&mut self, step: &mut Step<'_>, is_meant: impl Fn(usize) -> bool) {
        for slot in 0..self.slots.len() {
            let one = &self.slots[slot];
            let is_open = matches!(one.state, SlotState::Receiving | SlotState::InDevice);
            if is_open && is_meant(one.unit) {
                self.abort(step, u16::try_from(slot).expect("slots are few"));
            }
        }
    }

    /// A command that waits for data is over at once; one at the device when it is back.
    fn abort(&mut self, step: &mut Step<'_>, slot: u16) {
        match self.slots[usize::from(slot)].state {
            SlotState::InDevice => self.slots[usize::from(slot)].is_aborted = true,
            _ => self.release(slot, &mut step.cx.dma),
        }
    }

    /// Answers functions once nothing that they aborted is at a device any more.
    pub(super) fn finish_management(&mut self, step: &mut Step<'_>) {
        let is_at_device =
            self.slots.iter().any(|one| one.is_aborted && one.state == SlotState::InDevice);
        if is_at_device || self.socket.is_none() {
            return;
        }
        for Management { task_tag, response } in std::mem::take(&mut self.managing) {
            let header = TaskManagementResponse {
                opcode: TargetOpcode::TaskManagement as u8,
                flags: flag::FINAL,
                response,
                task_tag: task_tag.into(),
                stat_sn: self.next_stat_sn().into(),
                expected_command_sn: self.expected_command_sn.into(),
                max_command_sn: self.max_command_sn().into(),
                ..TaskManagementResponse::default()
            };
            self.enqueue(step, header.as_bytes(), Payload::None, None);
        }
    }

    /// Logout: of the session or its one connection.
    pub(super) fn take_logout(&mut self, step: &mut Step<'_>) {
        let request = LogoutRequest::read_from_bytes(&self.header).expect("a header has 48 bytes");
        if !self.is_in_order(request.opcode, request.command_sn.get()) {
            return;
        }
        // Recovery needs a level that there is not.
        const RECOVERY: u8 = 2;
        let is_recovery = request.reason & 0x7f == RECOVERY;
        let header = LogoutResponse {
            opcode: TargetOpcode::Logout as u8,
            flags: flag::FINAL,
            response: if is_recovery { 2 } else { 0 },
            task_tag: request.task_tag,
            stat_sn: self.next_stat_sn().into(),
            expected_command_sn: self.expected_command_sn.into(),
            max_command_sn: self.max_command_sn().into(),
            ..LogoutResponse::default()
        };
        self.enqueue(step, header.as_bytes(), Payload::None, None);
        if !is_recovery {
            self.finish(step.cx.now());
        }
    }
}
