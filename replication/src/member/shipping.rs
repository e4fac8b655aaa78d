//! Ships slices of the log, to each node in the order of its questions.
//!
//! What left the memory is read by a thread of the disk before anybody looks at it: signs of life and votes
//! do not wait for somebody's history. Only what goes to the same node waits, for a node that is sent a later
//! part first begins again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use staticfire_storage::{PhysicalOffset, ReadError};

use super::{Asked, Inner};
use crate::{Answer, NodeId};

/// A part of the log on its way. The slices were taken when it was asked for, since the log may be cut and
/// go on differently until they are looked at.
pub(crate) struct Shipment {
    pub(crate) request: Asked,
    pub(crate) answer: Answer,
    pub(crate) from: PhysicalOffset,
    pub(crate) upto: PhysicalOffset,
    pub(crate) records: Vec<Bytes>,
}

/// What waits behind a shipment that is under way, by node; a node to which none is has no entry.
#[derive(Default)]
pub(crate) struct Shipping(Mutex<BTreeMap<NodeId, VecDeque<Shipment>>>);

impl Shipping {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, VecDeque<Shipment>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(super) fn ship(&self, shipment: Shipment) {
        let to = shipment.request.from;
        let mut shipping = self.shipping.lock();
        if let Some(waiting) = shipping.get_mut(&to) {
            return waiting.push_back(shipment);
        }
        shipping.insert(to, VecDeque::from([shipment]));
        drop(shipping);
        self.ship_on(to);
    }

    /// Ships what waits for a node, up to something that has to be read first.
    fn ship_on(&self, to: NodeId) {
        loop {
            let mut shipping = self.shipping.lock();
            let Some(next) = shipping.get_mut(&to).and_then(VecDeque::pop_front) else {
                shipping.remove(&to);
                return;
            };
            drop(shipping);
            if self.is_cold(&next) {
                return self.ship_when_read(to, next);
            }
            self.write_answer(&next.request, next.answer, next.records);
        }
    }

    /// Whether a part of it left the memory. What was just written is not asked.
    fn is_cold(&self, shipment: &Shipment) -> bool {
        let Shipment { from, upto, .. } = shipment;
        from.0 + self.options.hot_bytes < self.store.marks().written.0
            && self.store.is_cold(*from, upto.0 - from.0)
    }

    fn ship_when_read(&self, to: NodeId, shipment: Shipment) {
        let (me, from, len) = (self.me.clone(), shipment.from, shipment.upto.0 - shipment.from.0);
        let done = move |read: Result<(), ReadError>| {
            let Shipment { request, answer, records, .. } = shipment;
            let Some(member) = me.upgrade() else { return };
            match read {
                Ok(()) => member.write_answer(&request, answer, records),
                // Whoever asked asks again.
                Err(_) => request.connection.close(),
            }
            member.ship_on(to);
        };
        self.store.start_read(from, len, Box::new(done));
    }
}
