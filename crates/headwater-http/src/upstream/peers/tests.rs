//! Tests of the choice of peers.

use super::least_time::Until;
use super::*;

pub(super) fn peer(name: &str, weight: i64) -> Peer {
    Peer { name: name.into(), weight, ..Peer::new(Addr::unix(name), name) }
}

fn group(method: Method, primary: Vec<Peer>, backup: Vec<Peer>) -> Group {
    Group::with_options("g", primary, backup, Keepalive::default(), Options { method, ..Options::default() })
}

fn zoned(zone: &str, primary: Vec<Peer>) -> Group {
    let options = Options { zone: Some(zone.into()), ..Options::default() };
    Group::with_options("g", primary, vec![], Keepalive::default(), options)
}

fn hashed() -> Method {
    Method::Hash(Complex::text(b""))
}

fn report(failed: bool) -> Report {
    Report { failed, status: if failed { 0 } else { 200 }, ..Report::default() }
}

fn pick(group: &Group, key: &str) -> Option<Picked> {
    group.pick(&mut group.start_with(Key::Text(key.into())))
}

fn name(picked: &Option<Picked>) -> &str {
    picked.as_ref().map_or("-", |picked| &*picked.peer.name)
}

/// Names of the peers of so many requests, one after the other.
fn picks(group: &Group, count: usize) -> String {
    let one = |_| {
        let mut tried = group.start_with(Key::None);
        let picked = group.pick(&mut tried).expect("live");
        let name = picked.peer.name.to_string();
        group.finish(picked, &mut tried, &report(false));
        name
    };
    (0..count).map(one).collect()
}

/// Serves a request that takes so long.
fn serve(group: &Group, name: &str, ms: u64) {
    let mut tried = group.start_with(Key::None);
    while let Some(picked) = group.pick(&mut tried) {
        if *picked.peer.name == *name {
            let times = Report { header_ms: Some(ms), response_ms: Some(ms), ..report(false) };
            group.finish(picked, &mut tried, &times);
            return;
        }
    }
    panic!("{name} was not chosen");
}

#[test]
fn weights_are_spread_smoothly() {
    let group = group(Method::RoundRobin, vec![peer("a", 5), peer("b", 1), peer("c", 1)], vec![]);
    assert_eq!(picks(&group, 14), "aabacaaaabacaa");
}

#[test]
fn a_failed_peer_is_left_out_and_backups_step_in() {
    let group = group(Method::RoundRobin, vec![peer("a", 1), peer("b", 1)], vec![peer("c", 1)]);
    let mut tried = group.start_with(Key::None);
    assert_eq!(tried.left, 3);
    for _ in 0..2 {
        let picked = group.pick(&mut tried).expect("live");
        assert!(group.finish(picked, &mut tried, &report(true)), "one failure is enough");
    }
    assert_eq!(name(&group.pick(&mut tried)), "c");
    assert_eq!(picks(&group, 2), "cc");
}

#[test]
fn single_peer_stays_whatever_fails_unless_it_is_down() {
    let one = group(Method::RoundRobin, vec![peer("a", 1)], vec![]);
    for group in [one, zoned("single", vec![peer("a", 1)])] {
        let mut tried = group.start_with(Key::None);
        let picked = group.pick(&mut tried).expect("live");
        assert!(!group.finish(picked, &mut tried, &report(true)));
        assert_eq!(tried.left, 0);
        assert_eq!(name(&group.pick(&mut tried)), "a");
    }
    let down = group(Method::RoundRobin, vec![Peer { down: true, ..peer("a", 1) }], vec![]);
    assert!(pick(&down, "").is_none());
}

#[test]
fn max_conns_every_method_goes_elsewhere_and_comes_back() {
    let methods = [
        Method::RoundRobin,
        Method::LeastConn,
        Method::LeastTime(LeastTime { until: Until::Header, inflight: true }),
        Method::IpHash,
        hashed(),
        Method::Consistent(Complex::text(b"")),
        Method::Random(Draw::One),
        Method::Random(Draw::LeastConn),
        Method::Random(Draw::LeastTime(Until::LastByte)),
    ];
    for method in methods {
        let shown = format!("{method:?}");
        let limited = |name| Peer { max_conns: 2, ..peer(name, 1) };
        let group = group(method, vec![limited("a"), limited("b")], vec![]);
        let held: Vec<_> = (0..4).map(|_| pick(&group, "key")).collect();
        assert!(held.iter().all(Option::is_some), "{shown}");
        assert_eq!(held.iter().filter(|held| name(held) == "a").count(), 2, "{shown}");
        assert!(pick(&group, "key").is_none(), "{shown}");
        drop(held);
        assert!(pick(&group, "key").is_some(), "{shown}");
    }
    let single = group(Method::RoundRobin, vec![Peer { max_conns: 1, ..peer("a", 1) }], vec![]);
    let held = pick(&single, "");
    assert!(held.is_some() && pick(&single, "").is_none());
}

#[test]
fn drain_is_left_out_by_every_method() {
    for method in [Method::RoundRobin, Method::LeastConn, Method::IpHash, hashed(), Method::Random(Draw::One)]
    {
        let group = group(method, vec![Peer { drain: true, ..peer("a", 9) }, peer("b", 1)], vec![]);
        for number in 0..20 {
            assert_eq!(name(&pick(&group, &number.to_string())), "b");
        }
    }
    let single = group(Method::RoundRobin, vec![Peer { drain: true, ..peer("a", 1) }], vec![]);
    assert!(pick(&single, "").is_none());
}

#[test]
fn least_conn_weighs_connections_and_goes_round_among_equals() {
    let group = group(Method::LeastConn, vec![peer("a", 2), peer("b", 1)], vec![]);
    let held: Vec<_> = (0..6).map(|_| pick(&group, "")).collect();
    assert_eq!(held.iter().filter(|held| name(held) == "a").count(), 4);
    drop(held);
    assert_eq!(picks(&group, 6).matches('a').count(), 4);
}

#[test]
fn least_time_prefers_the_faster_until_it_is_busy() {
    let by = LeastTime { until: Until::LastByte, inflight: false };
    let group = group(Method::LeastTime(by), vec![peer("a", 1), peer("b", 1)], vec![]);
    serve(&group, "a", 30);
    serve(&group, "b", 10);
    // b is as good as 10, 20, 30 ms; then both are at 30 and the one with fewer connections is better.
    let held: Vec<_> = (0..4).map(|_| pick(&group, "")).collect();
    assert_eq!(held.iter().map(name).collect::<String>(), "bbab");
}

#[test]
fn least_time_of_unknown_or_equally_fast_peers_is_least_conn() {
    let by = LeastTime { until: Until::Header, inflight: false };
    let group = group(Method::LeastTime(by), vec![peer("a", 1), peer("b", 1), peer("c", 2)], vec![]);
    assert_eq!(picks(&group, 8).matches('c').count(), 4);
    let held: Vec<_> = (0..4).map(|_| pick(&group, "")).collect();
    assert_eq!(held.iter().filter(|held| name(held) == "c").count(), 2);
}

#[test]
fn random_two_takes_the_better_one() {
    for draw in [Draw::LeastConn, Draw::LeastTime(Until::LastByte)] {
        let group = group(Method::Random(draw), vec![peer("a", 1), peer("b", 1)], vec![]);
        serve(&group, "a", 100);
        serve(&group, "b", 1);
        let mut held = Vec::new();
        while name(held.last().unwrap_or(&None)) != "a" {
            held.push(pick(&group, ""));
        }
        // Both were drawn each time: the fast one goes until it is as bad as the other.
        assert!(held.len() >= if draw == Draw::LeastConn { 1 } else { 100 }, "{draw:?} {}", held.len());
        assert!(held.len() <= 101);
    }
}

#[test]
fn hash_a_tried_peer_leads_to_another() {
    for method in [hashed(), Method::Consistent(Complex::text(b""))] {
        let group = group(method, vec![peer("a", 1), peer("b", 1), peer("c", 1)], vec![]);
        let mut tried = group.start_with(Key::Text(b"key".to_vec()));
        let mut seen: Vec<_> = (0..3).map(|_| name(&group.pick(&mut tried)).to_owned()).collect();
        seen.sort();
        assert_eq!(seen, ["a", "b", "c"]);
        assert!(group.pick(&mut tried).is_none());
    }
}

/// The wanted peers come from another implementation of ketama.
#[test]
fn consistent_ring_is_ketama() {
    let peers = vec![peer("10.0.0.1:80", 1), peer("10.0.0.2:80", 2), peer("10.0.0.3:80", 1)];
    let group = group(Method::Consistent(Complex::text(b"")), peers, vec![]);
    let of = |key: u32| name(&pick(&group, &key.to_string())).get(7..8).map(str::to_owned);
    assert_eq!((0..20).filter_map(of).collect::<String>(), "22222222321122223322");
}

#[test]
fn consistent_losing_a_peer_at_run_time_moves_its_keys_alone() {
    let peers = |names: &[&str]| names.iter().map(|name| peer(name, 1)).collect::<Vec<_>>();
    let group = group(Method::Consistent(Complex::text(b"")), peers(&["a:1", "b:1", "c:1"]), vec![]);
    let all = |group: &Group| -> Vec<String> {
        (0..200).map(|key| name(&pick(group, &key.to_string())).to_owned()).collect()
    };
    let before = all(&group);
    group.replace(peers(&["a:1", "b:1"]), vec![]);
    for (before, after) in before.iter().zip(all(&group)) {
        assert!(*before == "c:1" || *before == after);
    }
}

#[test]
fn replace_keeps_what_stays_and_forgets_what_goes() {
    let group = zoned("replace", vec![peer("a", 1), peer("b", 1)]);
    let (a, b) = (pick(&group, ""), pick(&group, ""));
    assert_eq!((name(&a), name(&b)), ("a", "b"));
    group.replace(vec![peer("c", 1), peer("b", 3)], vec![peer("d", 1)]);
    let active = |group: &Group| -> Vec<(String, u32, bool)> {
        let one = |peer: PeerSnapshot| (peer.peer.name.to_string(), peer.active, peer.backup);
        group.snapshot().into_iter().map(one).collect()
    };
    assert_eq!(active(&group), [("c".into(), 0, false), ("b".into(), 1, false), ("d".into(), 0, true)]);
    assert_eq!(group.attempts(), 3);
    // A connection of a list that is gone is given back, even when its peer is.
    drop(b);
    group.replace(vec![peer("b", 3), peer("e", 1)], vec![]);
    drop(a);
    assert_eq!(active(&group), [("b".into(), 0, false), ("e".into(), 0, false)]);
    group.replace(vec![peer("b", 3), peer("a", 1)], vec![]);
    let again = group.snapshot();
    assert_eq!(again.iter().map(|peer| peer.requests).collect::<Vec<_>>(), [1, 0]);
    // Every place was used again.
    assert!(again.iter().all(|peer| peer.id < 5), "{again:?}");
}

#[test]
fn replace_a_failing_peer_keeps_failing_and_a_request_goes_on_with_the_new_list() {
    let group = zoned("failing", vec![peer("a", 1), peer("b", 1)]);
    let mut tried = group.start_with(Key::None);
    let picked = group.pick(&mut tried).expect("live");
    assert!(group.finish(picked, &mut tried, &report(true)));
    group.replace(vec![peer("a", 1), peer("c", 1)], vec![]);
    assert_eq!(picks(&group, 3), "ccc");
    assert_eq!(name(&group.pick(&mut tried)), "c");
    assert!(group.pick(&mut tried).is_none());
    let statuses: Vec<_> = group.snapshot().iter().map(|peer| peer.status).collect();
    assert_eq!(statuses, [PeerStatus::Unavailable, PeerStatus::Up]);
}

#[test]
fn replace_turns_a_single_peer_into_many_and_back() {
    let group = group(Method::RoundRobin, vec![peer("a", 1)], vec![]);
    let held = pick(&group, "");
    group.replace(vec![peer("a", 1), peer("b", 1)], vec![]);
    assert_eq!(picks(&group, 4), "abab");
    drop(held);
    group.replace(vec![peer("b", 1)], vec![]);
    assert_eq!(picks(&group, 2), "bb");
}

#[test]
fn zone_the_next_generation_goes_on_once_it_is_activated() {
    let first = zoned("next", vec![peer("a", 1), peer("b", 1)]);
    first.activate();
    let held = pick(&first, "");
    assert_eq!(name(&held), "a");
    let second = zoned("next", vec![peer("a", 1), peer("c", 1)]);
    assert_eq!(first.snapshot().iter().map(|peer| &*peer.peer.name).collect::<String>(), "ab");
    drop(zoned("next", vec![peer("never", 1)]));
    second.activate();
    assert_eq!(second.snapshot().iter().map(|peer| peer.active).collect::<Vec<_>>(), [1, 0]);
    drop(held);
    assert_eq!(second.snapshot().iter().map(|peer| peer.active).collect::<Vec<_>>(), [0, 0]);
    let other = zoned("other", vec![peer("a", 1)]);
    assert_eq!(other.snapshot().iter().map(|peer| peer.requests).sum::<u64>(), 0);
}

#[test]
fn snapshot_counts_requests_answers_and_failures() {
    let group = zoned("counts", vec![peer("a", 1)]);
    let mut tried = group.start_with(Key::None);
    let first = group.pick(&mut tried).expect("live");
    let full = Report {
        status: 404,
        header_ms: Some(2),
        response_ms: Some(4),
        sent: 10,
        received: 20,
        failed: false,
    };
    group.finish(first, &mut tried, &full);
    let second = group.pick(&mut tried).expect("live");
    group.finish(second, &mut tried, &report(true));
    let seen = group.snapshot().remove(0);
    assert_eq!((seen.requests, seen.responses, seen.fails), (2, [0, 0, 0, 1, 0], 1));
    assert_eq!((seen.sent, seen.received, seen.header_ms, seen.response_ms), (10, 20, Some(2.0), Some(4.0)));
}

/// A group whose requests are bound by a cookie.
fn sticky(primary: Vec<Peer>, backup: Vec<Peer>) -> Group {
    let cookie = sticky::Cookie {
        name: b"srv".as_slice().into(),
        expires: None,
        domain: None,
        path: None,
        http_only: false,
        secure: false,
        same_site: None,
    };
    let options = Options { sticky: Some(sticky::Sticky::Cookie(cookie)), ..Options::default() };
    Group::with_options("g", primary, backup, Keepalive::default(), options)
}

fn routed(name: &str) -> Peer {
    Peer { route: Some(name.into()), ..peer(name, 1) }
}

fn bound(group: &Group, route: &str) -> Tried {
    Tried { binding: sticky::Binding::to(route), ..group.start_with(Key::None) }
}

#[test]
fn sticky_without_route_names_a_peer_by_the_md5_of_its_address() {
    let tcp = Peer::new(Addr::Inet(([127, 0, 0, 1], 8080).into()), "backend:8080");
    let unix = Peer::new(Addr::unix("/run/a.sock"), "unix:/run/a.sock");
    let group = sticky(vec![tcp, unix], vec![]);
    for (route, wanted) in [
        ("5958c386bf5e9109ac10d2a628645aea", "127.0.0.1:8080"),
        ("8cef2b5a944ef5972cac7a36adf74cbb", "unix:/run/a.sock"),
    ] {
        for _ in 0..3 {
            assert_eq!(name(&group.pick(&mut bound(&group, route))), wanted);
        }
    }
}

#[test]
fn sticky_bound_request_finds_drained_and_backup_peers_and_goes_elsewhere_once() {
    let drained = Peer { drain: true, ..routed("a") };
    let group = sticky(vec![drained, routed("b"), Peer { down: true, ..routed("c") }], vec![routed("d")]);
    assert_eq!(name(&group.pick(&mut bound(&group, "a"))), "a");
    assert_eq!(name(&group.pick(&mut bound(&group, "d"))), "d");
    assert_eq!(name(&group.pick(&mut bound(&group, "c"))), "b");
    assert_eq!(name(&group.pick(&mut bound(&group, "none"))), "b");
    let mut tried = bound(&group, "a");
    let order: Vec<String> = (0..4).map(|_| name(&group.pick(&mut tried)).to_owned()).collect();
    assert_eq!(order, ["a", "b", "d", "-"]);
}

#[test]
fn sticky_bound_requests_leave_unbound_ones_to_other_peers() {
    let group = sticky(vec![routed("a"), routed("b")], vec![]);
    let mut all = String::new();
    for _ in 0..3 {
        all.push_str(name(&group.pick(&mut bound(&group, "a"))));
        all.push_str(&picks(&group, 1));
    }
    assert_eq!(all, "ababab");
}

#[test]
fn sticky_full_or_failing_peer_is_left_for_another() {
    let group = sticky(vec![Peer { max_conns: 1, ..routed("a") }, routed("b")], vec![]);
    let held = group.pick(&mut bound(&group, "a"));
    assert_eq!(name(&held), "a");
    assert_eq!(name(&group.pick(&mut bound(&group, "a"))), "b");
    drop(held);
    let mut tried = bound(&group, "a");
    let picked = group.pick(&mut tried).expect("live");
    group.finish(picked, &mut tried, &report(true));
    assert_eq!(name(&group.pick(&mut bound(&group, "a"))), "b");
}

#[test]
fn slow_start_a_recovered_peer_gets_its_share_little_by_little() {
    let slow =
        |name| Peer { slow_start: Duration::from_secs(1000), fail_timeout: Duration::ZERO, ..peer(name, 1) };
    let group = group(Method::RoundRobin, vec![slow("a"), slow("b")], vec![]);
    let mut tried = group.start_with(Key::None);
    let picked = group.pick(&mut tried).expect("live");
    assert_eq!(&*picked.peer.name, "a");
    group.finish(picked, &mut tried, &report(true));
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(picks(&group, 20), "b".repeat(20));
}

proptest::proptest! {
    /// Whatever is chosen, given back and replaced in any order: every listed peer counts its own connections, and places are used again.
    #[test]
    fn table_counts_stay_right(steps in proptest::collection::vec((0_u8..4, proptest::num::u8::ANY), 1..120)) {
        const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        let group = zoned("property", vec![peer("a", 1), peer("b", 2)]);
        // How often each name came into the list; 0: it is not there.
        let mut terms = [1_u32, 1, 0, 0, 0, 0];
        let mut next = 2;
        let mut held: Vec<(Picked, Tried, usize, u32)> = Vec::new();
        for (step, value) in steps {
            match step {
                0 | 1 => {
                    let mut tried = group.start_with(Key::None);
                    if let Some(picked) = group.pick(&mut tried) {
                        let at = NAMES.iter().position(|name| **name == *picked.peer.name).expect("one of them");
                        proptest::prop_assert!(terms[at] > 0, "a peer that is gone was chosen");
                        held.push((picked, tried, at, terms[at]));
                    }
                }
                2 if !held.is_empty() => {
                    let (picked, mut tried, ..) = held.swap_remove(usize::from(value) % held.len());
                    if value % 3 > 0 {
                        group.finish(picked, &mut tried, &report(value % 3 == 1));
                    }
                }
                _ => {
                    let listed: Vec<usize> = (0..6).filter(|at| value >> at & 1 == 1).collect();
                    for (at, term) in terms.iter_mut().enumerate() {
                        match (listed.contains(&at), *term > 0) {
                            (true, false) => (*term, next) = (next, next + 1),
                            (false, _) => *term = 0,
                            (true, true) => {}
                        }
                    }
                    let peers = |backup: bool| -> Vec<Peer> {
                        let side = listed.iter().filter(|at| (**at % 2 == 1) == backup);
                        side.map(|at| peer(NAMES[*at], i64::from(value % 5) + 1)).collect()
                    };
                    group.replace(peers(false), peers(true));
                }
            }
            for seen in group.snapshot() {
                let at = NAMES.iter().position(|name| **name == *seen.peer.name).expect("one of them");
                let wanted = held.iter().filter(|(_, _, peer, term)| *peer == at && *term == terms[at]).count();
                proptest::prop_assert_eq!(seen.active as usize, wanted);
                proptest::prop_assert!(seen.id < 6 + 120);
            }
        }
    }
}
