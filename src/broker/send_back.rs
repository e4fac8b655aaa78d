//! A consumer wants a message again later (code 36, remoting-protocol §10.1).

use staticfire_storage::properties::{ORIGIN_MESSAGE_ID, RETRY_TOPIC, WAIT};
use staticfire_storage::{Message, PhysicalOffset, QueueId};
use staticfire_transport::Command;

use super::refusal::Refusal;
use super::send::{VERSION_WITH_MAX_RECONSUME, delayed};
use super::settling::Need;
use super::shared::{Shared, write};
use crate::protocol::body::permission;
use crate::protocol::codes::response;
use crate::protocol::delay;
use crate::protocol::header::read;
use crate::protocol::headers::SendBackRequest;
use crate::protocol::names::GroupName;

impl Shared {
    /// The copy to be stored, and what has to be settled before it is answered. `None`: the group
    /// does not retry.
    pub fn prepare_send_back(&self, request: &Command) -> Result<Option<(Message, Need)>, Refusal> {
        let head: SendBackRequest = read(request)?;
        let (group, config) = self.group(&head.group)?;
        let Ok(retry_queues @ 1..) = u32::try_from(config.retry_queue_nums) else { return Ok(None) };
        let not_found = || Refusal::system(format!("look message by offset failed, {}", head.offset));
        let offset = u64::try_from(head.offset).map_err(|_| not_found())?;
        let record = self.confirmed_record(PhysicalOffset(offset)).map_err(|_| not_found())?;
        let mut message = record.to_message()?;
        let keep = |message: &mut Message, name: &str, value: &str| match message.property(name) {
            Some(_) => Ok(()),
            None => message.set_property(name, value),
        };
        keep(&mut message, RETRY_TOPIC, record.topic())
            .and_then(|()| keep(&mut message, ORIGIN_MESSAGE_ID, &record.message_id().to_string()))
            .and_then(|()| message.set_property(WAIT, "false"))
            .map_err(|error| Refusal::system(error.to_string()))?;
        for name in ["DELAY", "REAL_TOPIC", "REAL_QID"] {
            message.remove_property(name);
        }
        let wanted = head.reconsume_times_max.filter(|_| request.version >= VERSION_WITH_MAX_RECONSUME);
        let max = wanted.unwrap_or(config.retry_max_times);
        let tried = record.reconsume_times();
        let dead = head.delay_level < 0 || tried >= max;
        let need = self.place_again(&mut message, &group, retry_queues, dead)?;
        message.reconsume_times = tried.saturating_add(1);
        let level = match head.delay_level {
            _ if dead => 0,
            0 => delay::retry_level(tried),
            level => level,
        };
        Ok(Some((delayed(message, level), need)))
    }

    fn place_again(
        &self,
        message: &mut Message,
        group: &GroupName,
        retry_queues: u32,
        dead: bool,
    ) -> Result<Need, Refusal> {
        let (name, queues) =
            if dead { (group.dead_letter_topic(), 1) } else { (group.retry_topic(), retry_queues) };
        let topic = write(&self.topics).ensure(&name, queues.min(64).cast_signed(), self.wall_ms())?;
        if topic.config.perm & permission::WRITE == 0 {
            let remark = format!("the topic[{name}] is not writable");
            return Err(Refusal::new(response::NO_PERMISSION, remark));
        }
        message.queue = QueueId(if dead { 0 } else { self.random_below(retry_queues.min(topic.queues())) });
        message.topic = name;
        Ok(Need { topics: topic.changed, ..Need::default() })
    }
}
