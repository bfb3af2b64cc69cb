//! What answers make of a group's peers, without any lookup.

use super::*;
use crate::upstream::peers::{Keepalive, Options};

fn named(zone: &str, servers: Vec<NamedServer>, backups: bool) -> NamedGroup {
    let fixed = (vec![Peer::new(Addr::unix("fixed"), "unix:fixed")], Vec::new());
    let options = Options { zone: Some(zone.into()), ..Options::default() };
    let group = Group::with_options("g", fixed.0.clone(), Vec::new(), Keepalive::default(), options);
    let resolver = ResolverOptions {
        servers: vec!["127.0.0.1:53".parse().unwrap()],
        valid: None,
        ipv4: true,
        ipv6: true,
    };
    NamedGroup {
        group: Arc::new(group),
        fixed,
        servers,
        resolver: Arc::new(resolver),
        timeout: Duration::from_secs(1),
        backups,
    }
}

fn server(host: &str, service: Option<&str>, weight: i64, backup: bool) -> NamedServer {
    let template = Peer { weight, ..Peer::new(Addr::unnamed_unix(), host) };
    NamedServer { template, host: host.into(), port: 80, service: service.map(Into::into), backup }
}

fn target(address: &str, name: &str, priority: u16, weight: u16) -> ServiceTarget {
    ServiceTarget { address: address.parse().unwrap(), name: name.into(), priority, weight }
}

fn text(peers: &[Peer]) -> String {
    let one = |peer: &Peer| format!("{}={}*{}", peer.name, peer.server, peer.weight);
    peers.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn lowest_priority_of_a_service_is_primary_and_the_rest_are_backups() {
    let targets = [
        target("10.0.0.1:81", "a", 10, 5),
        target("10.0.0.2:82", "b", 20, 1),
        target("10.0.0.3:83", "c", 10, 7),
    ];
    let cases = [
        (1, false, true, "10.0.0.1:81=a*5 10.0.0.3:83=c*7", "10.0.0.2:82=b*1"),
        (3, false, true, "10.0.0.1:81=a*3 10.0.0.3:83=c*3", "10.0.0.2:82=b*3"),
        (1, false, false, "10.0.0.1:81=a*5 10.0.0.3:83=c*7", ""),
        (1, true, true, "", "10.0.0.1:81=a*5 10.0.0.3:83=c*7"),
    ];
    for (weight, backup, backups, primary, second) in cases {
        let group = named("priorities", vec![server("s", Some("http"), weight, backup)], backups);
        let found = group.of_service(&group.servers[0], &targets);
        assert_eq!((text(&found.0).as_str(), text(&found.1).as_str()), (primary, second));
    }
}

#[test]
fn addresses_in_another_order_keep_the_peers_order() {
    let group = named("order", vec![server("n", None, 2, false)], true);
    let of = |list: &[&str]| {
        let list: Vec<_> = list.iter().map(|ip| ip.parse().unwrap()).collect();
        group.of_addresses(&group.servers[0], &list).0
    };
    let old = of(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let new = in_old_order(&old, of(&["10.0.0.4", "10.0.0.3", "10.0.0.3", "10.0.0.1"]));
    assert_eq!(text(&new), "10.0.0.1:80=n*2 10.0.0.3:80=n*2 10.0.0.4:80=n*2");
    assert!(same(&old, &in_old_order(&old, of(&["10.0.0.3", "10.0.0.2", "10.0.0.1"]))));
}

#[test]
fn next_configuration_goes_on_with_the_peers_that_were_found() {
    let old = named("reload", vec![server("n", None, 1, false), server("gone", None, 1, false)], true);
    old.group.activate();
    let found: Vec<Found> = ["10.0.0.1", "10.0.0.2"]
        .iter()
        .zip(&old.servers)
        .map(|(ip, server)| old.of_addresses(server, &[ip.parse().unwrap()]))
        .collect();
    let (primary, backup) = old.peers(&found);
    old.group.replace(primary, backup);
    let new = named("reload", vec![server("n", None, 4, false), server("fresh", None, 1, false)], true);
    new.take_over();
    new.group.activate();
    let peers: Vec<String> = new.group.snapshot().iter().map(|peer| peer.peer.name.to_string()).collect();
    assert_eq!(peers, ["unix:fixed", "10.0.0.1:80"]);
    assert_eq!(text(&new.known()[0].0), "10.0.0.1:80=n*4");
}
