//! Answers of name servers: no panic, and what is read stays within the message.
#![no_main]

use headwater_io::resolver::{Transport, read_head};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for transport in [Transport::Udp, Transport::Tcp] {
        let Ok(head) = read_head(data, transport) else { continue };
        assert!(head.code <= 5 && head.name.len() < data.len());
        assert!(!head.truncated || transport == Transport::Udp);
        if let Ok(records) = head.records() {
            assert!(records.empty || records.ttl <= i32::MAX as u32);
        }
    }
});
