//! The mission's statements, row by row: tests of the rows M1 to M17, M24 to M26, M30 and M43 to M47 begin
//! with their number. Beside them stands what else users may rely on in producers and consumers. All
//! of it runs on the simulated cluster, against the real name server and broker and, where an answer
//! must be chosen, a scripted one.

mod connections;
mod consuming;
mod death;
mod kept_offsets;
mod members;
mod name_servers;
mod reading;
mod redelivery;
mod registration;
mod scripted;
mod seen;
mod sending;
