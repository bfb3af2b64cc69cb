//! Scripted clients and origins, and the nginx oracle, for the differential and behavioural tests.
