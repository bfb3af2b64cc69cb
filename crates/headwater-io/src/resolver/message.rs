//! DNS messages: a question as bytes, an answer's bytes as records.
//!
//! Pure functions on top of `hickory-proto`; the first checks look at the bytes themselves, because they decide whether a message is looked at any further.
//! Called by `core`. nginx's counterpart: `ngx_resolver_create_name_query`, `ngx_resolver_process_response` up to the look-up of the name.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

use super::answer::ServiceRecord;
use super::name::DomainName;

/// Bytes of a message's header.
const HEADER: usize = 12;

/// Bytes of a record without its names and its data: type, class, time to live, length.
const RECORD: usize = 10;

/// Service records of one answer that are looked at: each costs further questions.
const MAX_SERVICES: usize = 1024;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Service records.
    Srv,
}

impl Kind {
    fn record_type(self) -> RecordType {
        match self {
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
            Kind::Srv => RecordType::SRV,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        [Kind::A, Kind::Aaaa, Kind::Srv].into_iter().find(|kind| u16::from(kind.record_type()) == number)
    }
}

/// How a message came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        })
    }
}

/// A question, ready to be sent. `None` when the name cannot be encoded.
pub(super) fn encode(id: u16, name: &DomainName, kind: Kind) -> Option<Vec<u8>> {
    let name = Name::from_labels(name.labels()).ok()?;
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind.record_type()));
    message.to_vec().ok()
}

/// An answer whose header and question make sense.
#[derive(Debug)]
pub struct Head<'m> {
    /// Says which question it answers.
    pub id: u16,
    /// The response code, at most 5.
    pub code: u8,
    /// Whether the records did not fit.
    pub truncated: bool,
    /// What was asked for.
    pub kind: Kind,
    /// The name in wire form, as the server wrote it.
    pub name: &'m [u8],
    message: &'m [u8],
    records: usize,
    count: u16,
}

/// Why an answer is not looked at any further, in nginx's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// It ends too early.
    Short,
    /// It is no answer to a standard query.
    Flags(Transport, u16, u16),
    /// A code that belongs to no name: code and id.
    Code(u8, u16),
    /// Something else.
    Text(&'static str),
    /// A class other than IN, in the question.
    QueryClass(u16),
    /// A type that is never asked for.
    QueryType(u16),
    /// A class other than IN, in a record.
    RecordClass(u16),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("short DNS response"),
            Self::Flags(transport, id, flags) => {
                write!(f, "invalid {transport} DNS response {id} fl:{flags:04X}")
            }
            Self::Code(code, id) => {
                let words = super::answer::ResolveError::words(*code);
                write!(f, "DNS error ({code}: {words}), query id:{id}")
            }
            Self::Text(text) => f.write_str(text),
            Self::QueryClass(class) => write!(f, "unknown query class {class} in DNS response"),
            Self::QueryType(kind) => write!(f, "unknown query type {kind} in DNS response"),
            Self::RecordClass(class) => write!(f, "unexpected RR class {class} in DNS response"),
        }
    }
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    let end = at.checked_add(2)?;
    message.get(at..end)?.try_into().ok().map(u16::from_be_bytes)
}

/// Reads header and question.
///
/// # Errors
/// When there is nothing to be done with the message but to log it.
pub fn read_head(message: &[u8], transport: Transport) -> Result<Head<'_>, Unusable> {
    let header = |at: usize| number(message, at).ok_or(Unusable::Short);
    let (id, flags, questions, count) = (header(0)?, header(2)?, header(4)?, header(6)?);
    header(10)?;
    let truncated = flags & 0x0200 != 0;
    if flags & 0xf870 != 0x8000 || (truncated && transport == Transport::Tcp) {
        return Err(Unusable::Flags(transport, id, flags));
    }
    let code = u8::try_from(flags & 15).unwrap_or(u8::MAX);
    // An answer that says "format error" need not repeat the question.
    if code == 1 || code > 5 {
        return Err(Unusable::Code(code, id));
    }
    if questions != 1 {
        return Err(Unusable::Text("invalid number of questions in DNS response"));
    }
    let mut end = HEADER;
    loop {
        match message.get(end) {
            None => return Err(Unusable::Short),
            Some(0) => break,
            Some(length) if length & 0xc0 != 0 => {
                return Err(Unusable::Text("unexpected compression pointer in DNS response"));
            }
            Some(length) => end = end.saturating_add(1).saturating_add(usize::from(*length)),
        }
    }
    if end == HEADER {
        return Err(Unusable::Text("zero-length domain name in DNS response"));
    }
    end = end.saturating_add(1);
    let name = message.get(HEADER..end).ok_or(Unusable::Short)?;
    let kind = number(message, end).ok_or(Unusable::Short)?;
    let class = number(message, end.saturating_add(2)).ok_or(Unusable::Short)?;
    let records = end.saturating_add(4);
    let least = usize::from(count).saturating_mul(RECORD.saturating_add(2));
    if records.saturating_add(least) > message.len() {
        return Err(Unusable::Short);
    }
    if class != u16::from(DNSClass::IN) {
        return Err(Unusable::QueryClass(class));
    }
    let kind = Kind::from_number(kind).ok_or(Unusable::QueryType(kind))?;
    Ok(Head { id, code, truncated, kind, name, message, records, count })
}

/// The records of an answer that matter.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Records {
    /// Whether there was no record at all.
    pub empty: bool,
    /// The smallest time to live, seconds.
    pub ttl: u32,
    pub(super) v4: Vec<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
    pub(super) services: Vec<ServiceRecord>,
    pub(super) alias: Option<DomainName>,
    /// Types that have no business there.
    pub(super) strange: Vec<u16>,
}

impl Head<'_> {
    /// Reads the records of the answer section; the others do not matter.
    ///
    /// # Errors
    /// When one of them is not well-formed, or is an address of the kind that was not asked for.
    pub fn records(&self) -> Result<Records, Unusable> {
        let mut decoder = BinDecoder::new(self.message);
        let skipped = u16::try_from(self.records).ok().and_then(|at| decoder.read_slice(at.into()).ok());
        skipped.ok_or(Unusable::Short)?;
        let mut records = Records { empty: self.count == 0, ttl: u32::MAX, ..Records::default() };
        for _ in 0..self.count {
            let record = Record::<RData>::read(&mut decoder).map_err(|error| match error {
                DecodeError::InsufficientBytes | DecodeError::IncorrectRDataLengthRead { .. } => {
                    Unusable::Short
                }
                _ => Unusable::Text("invalid record in DNS response"),
            })?;
            self.take(&record, &mut records)?;
        }
        Ok(records)
    }

    fn take(&self, record: &Record<RData>, records: &mut Records) -> Result<(), Unusable> {
        let class = u16::from(record.dns_class);
        if record.dns_class != DNSClass::IN {
            return Err(Unusable::RecordClass(class));
        }
        // A negative time is none (RFC 2181, 8).
        let ttl = if i32::try_from(record.ttl).is_ok() { record.ttl } else { 0 };
        records.ttl = records.ttl.min(ttl);
        match (&record.data, self.kind) {
            (RData::A(address), Kind::A) => records.v4.push(address.0),
            (RData::A(_), Kind::Aaaa) => {
                return Err(Unusable::Text("unexpected A record in DNS response"));
            }
            (RData::AAAA(address), Kind::Aaaa) => records.v6.push(address.0),
            (RData::AAAA(_), Kind::A) => {
                return Err(Unusable::Text("unexpected AAAA record in DNS response"));
            }
            (RData::SRV(service), Kind::Srv) if records.services.len() < MAX_SERVICES => {
                records.services.push(ServiceRecord {
                    priority: service.priority,
                    weight: service.weight.max(1),
                    port: service.port,
                    target: DomainName::from_labels(service.target.iter()),
                });
            }
            (RData::SRV(_), Kind::Srv) => {}
            (RData::CNAME(target), _) => records.alias = DomainName::from_labels(target.0.iter()),
            (data, _) => {
                // DNAME goes with a CNAME made from it.
                let number = u16::from(data.record_type());
                if number != 39 && records.strange.len() < 4 {
                    records.strange.push(number);
                }
            }
        }
        Ok(())
    }
}
