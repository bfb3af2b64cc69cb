//! The core against a world of numbers: every send, answer and tick in the order the test wants.

use std::fmt;
use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::super::answer::{Reply, ServiceRecord};
use super::*;

/// What was sent: server, transport, message.
type Sent = (usize, Transport, Vec<u8>);

#[derive(Default)]
struct World {
    now: u64,
    seed: u32,
    sent: Vec<Sent>,
    refuse: usize,
    finished: Vec<(u64, Outcome)>,
    logged: Vec<String>,
}

impl Outside for World {
    fn now(&self) -> u64 {
        self.now
    }
    fn random(&mut self) -> u32 {
        self.seed = self.seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        self.seed >> 8
    }
    fn send(&mut self, server: usize, transport: Transport, message: &[u8]) -> bool {
        if self.refuse > 0 {
            self.refuse -= 1;
            return false;
        }
        self.sent.push((server, transport, message.to_vec()));
        true
    }
    fn finish(&mut self, waiter: u64, outcome: Outcome) {
        self.finished.push((waiter, outcome));
    }
    fn log(&mut self, text: fmt::Arguments<'_>) {
        self.logged.push(text.to_string());
    }
}

fn core(servers: usize, valid: Option<u64>, ipv6: bool) -> (Core, World) {
    let rules = Rules { servers, valid, ipv4: true, ipv6 };
    (Core::new(rules), World { now: 1_000_500, seed: 7, ..World::default() })
}

fn named(text: &str) -> DomainName {
    DomainName::parse(text.as_bytes()).unwrap()
}

fn data(text: &str) -> RData {
    let name = |text: &str| Name::from_ascii(format!("{text}.")).unwrap();
    match text.split_once(' ') {
        Some(("srv", rest)) => {
            let words: Vec<&str> = rest.split(' ').collect();
            let number = |at: usize| words[at].parse().unwrap();
            RData::SRV(SRV::new(number(0), number(1), number(2), name(words[3])))
        }
        Some(("cname", rest)) => RData::CNAME(CNAME(name(rest))),
        _ => match text.parse().unwrap() {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        },
    }
}

/// An answer to a question that was sent.
fn answer(question: &[u8], code: ResponseCode, ttl: u32, records: &[&str]) -> Vec<u8> {
    let asked = Message::from_vec(question).unwrap();
    let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.add_queries(asked.queries.clone());
    for record in records {
        message.add_answer(Record::from_rdata(asked.queries[0].name().clone(), ttl, data(record)));
    }
    message.to_vec().unwrap()
}

/// Answers the question that was sent last but `back`.
fn say(core: &mut Core, world: &mut World, back: usize, ttl: u32, records: &[&str]) {
    let (server, transport, question) = world.sent[world.sent.len() - 1 - back].clone();
    core.receive(server, transport, &answer(&question, ResponseCode::NoError, ttl, records), world);
}

fn text(outcome: &Outcome) -> String {
    match outcome {
        Ok(Reply::Addresses(found)) => {
            let all: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
            format!("{} for {}", all.join(" "), found.valid)
        }
        Ok(Reply::Services { records, valid }) => {
            let one = |record: &ServiceRecord| {
                let target = record.target.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("{}/{}/{target}:{}", record.priority, record.weight, record.port)
            };
            format!("{} for {valid}", records.iter().map(one).collect::<Vec<_>>().join(" "))
        }
        Err(error) => error.to_string(),
    }
}

fn finished(world: &mut World) -> Vec<String> {
    world.finished.drain(..).map(|(waiter, outcome)| format!("{waiter}: {}", text(&outcome))).collect()
}

#[test]
fn lookup_asks_both_families_and_joins_their_answers() {
    let (mut core, mut world) = core(1, None, true);
    assert!(core.lookup(false, &named("A.test"), 1, &mut world).is_none());
    assert!(core.lookup(false, &named("a.test"), 2, &mut world).is_none());
    assert_eq!(world.sent.len(), 2, "one name is asked for once");
    say(&mut core, &mut world, 0, 60, &["::2"]);
    assert!(finished(&mut world).is_empty());
    say(&mut core, &mut world, 1, 30, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(finished(&mut world), ["1: 10.0.0.1 10.0.0.2 ::2 for 30", "2: 10.0.0.1 10.0.0.2 ::2 for 30"]);
    assert_eq!(core.next_due(), None);
    world.now += 30_000;
    let known = core.lookup(false, &named("a.test"), 3, &mut world);
    assert!(known.is_none(), "a name nobody asked for in 30 s is forgotten");
}

#[test]
fn answer_holds_for_its_seconds_or_for_those_of_the_configuration() {
    for (valid, until) in [(None, 5), (Some(12), 12)] {
        let (mut core, mut world) = core(1, valid, false);
        assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
        say(&mut core, &mut world, 0, 5, &["10.0.0.1"]);
        world.now += until * 1000 + 499;
        assert!(core.lookup(false, &named("a"), 2, &mut world).is_some());
        world.now += 1;
        assert!(core.lookup(false, &named("a"), 3, &mut world).is_none(), "valid: {valid:?}");
    }
}

#[test]
fn silent_servers_are_asked_in_turn_every_five_seconds() {
    let (mut core, mut world) = core(3, None, false);
    assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
    for expected in [1, 2, 0] {
        assert_eq!(core.next_due(), Some(world.now + 5000));
        world.now += 5000;
        core.tick(&mut world);
        assert_eq!(world.sent.last().unwrap().0, expected);
    }
    assert_eq!(world.sent[0].2, world.sent[3].2, "the question stays the same");
    // The first server answers late.
    let late = answer(&world.sent[0].2, ResponseCode::NoError, 1, &["10.0.0.9"]);
    core.receive(0, Transport::Udp, &late, &mut world);
    assert_eq!(finished(&mut world), ["1: 10.0.0.9 for 1"]);
    core.receive(0, Transport::Udp, &late, &mut world);
    assert_eq!(world.logged, ["unexpected DNS response for a"]);
    assert!(core.lookup(false, &named("b"), 2, &mut world).is_none());
    assert_eq!(world.sent.last().unwrap().0, 1, "other names begin with other servers");
}

#[test]
fn server_that_cannot_be_sent_to_is_followed_by_the_next_at_once() {
    let (mut core, mut world) = core(2, None, false);
    world.refuse = 1;
    assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
    assert_eq!(world.sent.len(), 1);
    assert_eq!(world.sent[0].0, 1);
}

#[test]
fn forged_answers_change_nothing() {
    let (mut core, mut world) = core(2, None, false);
    assert!(core.lookup(false, &named("a.test"), 1, &mut world).is_none());
    let good = answer(&world.sent[0].2, ResponseCode::NoError, 60, &["10.0.0.66"]);
    let mut wrong_id = good.clone();
    wrong_id[0] ^= 1;
    core.receive(0, Transport::Udp, &wrong_id, &mut world);
    let mut wrong_name = good.clone();
    wrong_name[13] = b'b';
    core.receive(0, Transport::Udp, &wrong_name, &mut world);
    core.receive(1, Transport::Udp, &good, &mut world);
    let mut question = good.clone();
    question[2] &= 0x7f;
    core.receive(0, Transport::Udp, &question, &mut world);
    for end in 0..good.len() {
        core.receive(0, Transport::Udp, &good[..end], &mut world);
    }
    assert!(finished(&mut world).is_empty());
    assert!(world.logged[0].starts_with("wrong ident "), "{:?}", world.logged);
    assert_eq!(world.logged[1], "unexpected DNS response for b.test");
    assert_eq!(world.logged[2], "unexpected DNS response for a.test");
    assert!(world.logged[3].starts_with("invalid UDP DNS response "), "{:?}", world.logged);
    let mut other_case = good.clone();
    other_case[13] = b'A';
    core.receive(0, Transport::Udp, &other_case, &mut world);
    assert_eq!(finished(&mut world), ["1: 10.0.0.66 for 60"]);
}

#[test]
fn truncated_answer_is_asked_for_over_tcp() {
    let (mut core, mut world) = core(1, None, false);
    assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
    let mut cut = answer(&world.sent[0].2, ResponseCode::NoError, 60, &[]);
    cut[2] |= 2;
    core.receive(0, Transport::Udp, &cut, &mut world);
    core.receive(0, Transport::Udp, &cut, &mut world);
    assert_eq!(world.sent.len(), 2);
    assert_eq!(world.sent[1].1, Transport::Tcp);
    world.now += 5000;
    core.tick(&mut world);
    assert_eq!(world.sent[2].1, Transport::Tcp, "again over TCP");
    core.receive(0, Transport::Tcp, &cut, &mut world);
    assert!(world.logged[0].starts_with("invalid TCP DNS response "), "{:?}", world.logged);
    say(&mut core, &mut world, 0, 60, &["10.0.0.1"]);
    assert_eq!(finished(&mut world), ["1: 10.0.0.1 for 60"]);
}

#[test]
fn errors_of_servers_are_told_and_not_remembered() {
    let cases = [
        (ResponseCode::ServFail, "1: 2: Server failure"),
        (ResponseCode::NXDomain, "1: 3: Host not found"),
        (ResponseCode::NotImp, "1: 4: Unimplemented"),
        (ResponseCode::Refused, "1: 5: Operation refused"),
        (ResponseCode::NoError, "1: 3: Host not found"),
    ];
    for (code, expected) in cases {
        let (mut core, mut world) = core(1, None, true);
        assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
        for index in 0..2 {
            let message = answer(&world.sent[index].2, code, 0, &[]);
            core.receive(0, Transport::Udp, &message, &mut world);
        }
        assert_eq!(finished(&mut world), [expected]);
        assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
        assert_eq!(world.sent.len(), 4);
    }
}

#[test]
fn format_error_is_logged_and_the_question_asked_again() {
    let (mut core, mut world) = core(1, None, false);
    assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
    let message = answer(&world.sent[0].2, ResponseCode::FormErr, 0, &[]);
    core.receive(0, Transport::Udp, &message, &mut world);
    assert!(world.logged[0].starts_with("DNS error (1: Format error), query id:"), "{:?}", world.logged);
    assert!(finished(&mut world).is_empty());
}

#[test]
fn one_family_without_addresses_is_enough_and_one_that_fails_is_not() {
    let (mut core, mut world) = core(1, None, true);
    assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
    say(&mut core, &mut world, 0, 9, &[]);
    say(&mut core, &mut world, 1, 9, &["10.0.0.1"]);
    assert_eq!(finished(&mut world), ["1: 10.0.0.1 for 9"]);
    assert!(core.lookup(false, &named("b"), 2, &mut world).is_none());
    let message = answer(&world.sent.last().unwrap().2, ResponseCode::ServFail, 0, &[]);
    core.receive(0, Transport::Udp, &message, &mut world);
    say(&mut core, &mut world, 1, 9, &["10.0.0.1"]);
    assert_eq!(finished(&mut world), ["2: 2: Server failure"]);
}

#[test]
fn aliases_are_followed_within_an_answer_and_by_asking_again() {
    let (mut core, mut world) = core(1, None, false);
    assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
    say(&mut core, &mut world, 0, 60, &["cname b", "10.0.0.1"]);
    assert_eq!(finished(&mut world), ["1: 10.0.0.1 for 60"]);
    assert!(core.lookup(false, &named("c"), 2, &mut world).is_none());
    say(&mut core, &mut world, 0, 60, &["cname D.test"]);
    assert_eq!(world.sent.len(), 3);
    say(&mut core, &mut world, 0, 20, &["10.0.0.2"]);
    assert_eq!(finished(&mut world), ["2: 10.0.0.2 for 20"]);
    let known = core.lookup(false, &named("c"), 3, &mut world);
    assert_eq!(text(&known.unwrap()), "10.0.0.2 for 20");
}

#[test]
fn alias_loops_end() {
    for ttl in [0, 60] {
        let (mut core, mut world) = core(1, None, false);
        assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
        for round in 0..100 {
            if !world.finished.is_empty() {
                break;
            }
            world.now += if ttl == 0 { 1000 } else { 0 };
            say(&mut core, &mut world, 0, ttl, &[if round % 2 == 0 { "cname b" } else { "cname a" }]);
        }
        assert_eq!(finished(&mut world), ["1: 3: Host not found"]);
        assert_eq!(world.sent.len(), if ttl == 0 { 51 } else { 2 });
    }
}

#[test]
fn services_are_ordered_by_priority() {
    let (mut core, mut world) = core(1, None, true);
    assert!(core.lookup(true, &named("_http._tcp.a"), 1, &mut world).is_none());
    assert_eq!(world.sent.len(), 1);
    say(&mut core, &mut world, 0, 7, &["srv 20 0 81 b", "srv 10 5 80 a", "srv 10 6 82 c"]);
    assert_eq!(finished(&mut world), ["1: 10/5/a:80 10/6/c:82 20/1/b:81 for 7"]);
    assert_eq!(Message::from_vec(&world.sent[0].2).unwrap().queries[0].query_type(), RecordType::SRV);
}

#[test]
fn cancelled_lookups_are_asked_no_more() {
    let (mut core, mut world) = core(1, None, false);
    assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
    core.cancel(1);
    world.now += 5000;
    core.tick(&mut world);
    assert_eq!(world.sent.len(), 1);
    assert_eq!(core.next_due(), None);
    assert!(core.nodes.is_empty() && core.names.is_empty() && core.waiters.is_empty());
}

#[test]
fn names_are_bounded_in_number() {
    let (mut core, mut world) = core(1, None, false);
    for number in 0..MAX_NAMES as u64 {
        assert!(core.lookup(false, &named(&format!("n{number}")), number, &mut world).is_none());
    }
    let refused = core.lookup(false, &named("more"), 99_999, &mut world);
    assert_eq!(text(&refused.unwrap()), "2: Server failure");
    assert_eq!(world.logged, ["too many names are being resolved"]);
    say(&mut core, &mut world, 5, 60, &["10.0.0.1"]);
    assert!(core.lookup(false, &named("more"), 99_999, &mut world).is_none());
    assert_eq!(core.nodes.len(), MAX_NAMES);
}

#[test]
fn wrong_kinds_of_records_are_refused() {
    let (mut core, mut world) = core(1, None, true);
    assert!(core.lookup(false, &named("a"), 1, &mut world).is_none());
    say(&mut core, &mut world, 0, 60, &["10.0.0.1"]);
    say(&mut core, &mut world, 1, 60, &["::1"]);
    say(&mut core, &mut world, 0, 60, &["srv 1 1 1 b"]);
    assert_eq!(
        world.logged,
        [
            "unexpected A record in DNS response",
            "unexpected AAAA record in DNS response",
            "unexpected RR type 33 in DNS response",
            "no A or CNAME types in DNS response",
        ]
    );
    say(&mut core, &mut world, 1, 60, &["10.0.0.2"]);
    assert_eq!(finished(&mut world), ["1: 10.0.0.2 for 60"]);
}

/// One thing that happens in a random history.
#[derive(Clone, Debug)]
enum Event {
    Lookup(u8),
    Cancel(u64),
    Answer(u8, u8),
    Garbage(Vec<u8>),
    Wait(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..6_u8).prop_map(Event::Lookup),
        (0..40_u64).prop_map(Event::Cancel),
        (any::<u8>(), 0..5_u8).prop_map(|(which, what)| Event::Answer(which, what)),
        proptest::collection::vec(any::<u8>(), 0..80).prop_map(Event::Garbage),
        (0..7000_u16).prop_map(Event::Wait),
    ]
}

proptest! {
    /// Whatever happens in whatever order: nobody is told twice or after cancelling, and the tables agree.
    #[test]
    fn any_history_keeps_the_tables_in_order(events in proptest::collection::vec(event(), 0..120)) {
        let (mut core, mut world) = core(2, None, true);
        let mut waiting = std::collections::BTreeSet::new();
        let mut next = 0;
        for event in events {
            match event {
                Event::Lookup(which) => {
                    if core.lookup(which == 5, &named(&format!("n{which}")), next, &mut world).is_none() {
                        waiting.insert(next);
                    }
                    next += 1;
                }
                Event::Cancel(waiter) => {
                    core.cancel(waiter);
                    waiting.remove(&waiter);
                }
                Event::Answer(which, what) => {
                    let Some((server, transport, question)) =
                        world.sent.get(usize::from(which) % world.sent.len().max(1)).cloned()
                    else { continue };
                    let (code, records): (_, &[&str]) = match what {
                        0 => (ResponseCode::NoError, &["10.0.0.1"]),
                        1 => (ResponseCode::NoError, &["::1"]),
                        2 => (ResponseCode::NoError, &["cname n1"]),
                        3 => (ResponseCode::NXDomain, &[]),
                        _ => (ResponseCode::NoError, &["srv 1 1 80 n1"]),
                    };
                    core.receive(server, transport, &answer(&question, code, 3, records), &mut world);
                }
                Event::Garbage(bytes) => core.receive(0, Transport::Udp, &bytes, &mut world),
                Event::Wait(time) => {
                    world.now += u64::from(time);
                    core.tick(&mut world);
                }
            }
            for (waiter, _) in world.finished.drain(..) {
                prop_assert!(waiting.remove(&waiter), "{waiter} was told but did not wait");
            }
            prop_assert_eq!(core.nodes.len(), core.names.len());
            prop_assert_eq!(core.nodes.len(), core.asked.len() + core.known.len());
            prop_assert!(core.waiters.keys().eq(waiting.iter()) || core.waiters.len() == waiting.len());
        }
    }

    /// An answer with some bytes changed or cut off: never a panic, and the tables agree.
    #[test]
    fn damaged_answers_do_no_harm(
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        cut in any::<usize>(),
        services in any::<bool>(),
    ) {
        let (mut core, mut world) = core(1, None, false);
        prop_assert!(core.lookup(services, &named("_http._tcp.a.test"), 1, &mut world).is_none());
        let records: &[&str] =
            if services { &["srv 1 2 80 b.test", "cname c"] } else { &["cname b.test", "10.0.0.1", "10.0.0.2"] };
        let mut message = answer(&world.sent[0].2, ResponseCode::NoError, 60, records);
        for (at, byte) in changes {
            let at = at % message.len();
            message[at] = byte;
        }
        message.truncate(cut % (message.len() + 1) + message.len() / 2);
        core.receive(0, Transport::Udp, &message, &mut world);
        prop_assert!(world.finished.len() <= 1);
        prop_assert_eq!(core.nodes.len(), core.asked.len() + core.known.len());
    }
}
