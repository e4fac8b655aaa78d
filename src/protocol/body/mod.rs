//! Bodies in JSON, by subject. Field names and shapes: remoting-protocol §3, §9, §15 and
//! nameserver.md §3 to §6. Fields are written in the order of their names, as RocketMQ does.

pub mod broker;
pub mod group;
pub mod heartbeat;
mod lenient;
pub mod node;
pub mod offsets;
pub mod queue;
pub mod route;
pub mod topic;

pub use broker::*;
pub use group::*;
pub use heartbeat::*;
pub use node::*;
pub use offsets::*;
pub use queue::*;
pub use route::*;
pub use topic::*;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::json;

    fn text<T: serde::Serialize>(body: &T) -> String {
        String::from_utf8(json::to_bytes(body).to_vec()).unwrap()
    }

    /// The shapes of remoting-protocol §3 and nameserver.md §5, byte for byte.
    #[test]
    fn bodies_are_written_as_rocketmq_writes_them() {
        assert_eq!(
            text(&TopicConfig::new("TopicTest", 4, 6)),
            r#"{"attributes":{},"order":false,"perm":6,"readQueueNums":4,"topicFilterType":"SINGLE_TAG","topicName":"TopicTest","topicSysFlag":0,"writeQueueNums":4}"#
        );
        assert_eq!(
            text(&SubscriptionData::tags("TopicTest", "TagA || TagB", 1_700_000_000_000).unwrap()),
            r#"{"classFilterMode":false,"codeSet":[2598919,2598920],"expressionType":"TAG","subString":"TagA || TagB","subVersion":1700000000000,"tagsSet":["TagA","TagB"],"topic":"TopicTest"}"#
        );
        let route = TopicRouteData {
            broker_datas: vec![BrokerData {
                broker_addrs: [(0, "127.0.0.1:10911".to_owned()), (1, "127.0.0.1:10921".to_owned())].into(),
                broker_name: "broker-a".into(),
                cluster: "DefaultCluster".into(),
                ..BrokerData::default()
            }],
            ..TopicRouteData::default()
        };
        assert_eq!(
            text(&route),
            r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:10911","1":"127.0.0.1:10921"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[]}"#
        );
        let stats =
            ResetOffsetBody { offset_table: [(MessageQueue::new("t", "b", 0), 5)].into_iter().collect() };
        assert_eq!(
            text(&stats),
            r#"{"offsetTable":{"{\"brokerName\":\"b\",\"queueId\":0,\"topic\":\"t\"}":5}}"#
        );
    }

    /// remoting-protocol §3: bare keys, and objects as keys.
    #[test]
    fn bodies_of_java_are_read() {
        let route: TopicRouteData = json::from_slice_tolerant(
            br#"{"brokerDatas":[{"brokerAddrs":{0:"h:1",1:"h:2"},"brokerName":"b","cluster":"c","zoneName":null}],
                "orderTopicConf":null,"queueDatas":null,"unknown":{"a":[1]}}"#,
        )
        .unwrap();
        assert_eq!(route.broker("b").unwrap().master(), Some("h:1"));
        assert_eq!(route.broker_datas[0].broker_addrs[&1], "h:2");
        let offsets: ResetOffsetBody =
            json::from_slice_tolerant(br#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:5}}"#)
                .unwrap();
        assert_eq!(offsets.offset_table.of(&MessageQueue::new("t", "b", 0)), Some(&5));
        let table: ConsumerOffsetTable =
            json::from_slice_tolerant(br#"{"dataVersion":{"counter":1},"offsetTable":{"t@g":{0:5,1:7}}}"#)
                .unwrap();
        assert_eq!(table.offset_table["t@g"][&1], 7);
    }

    /// remoting-protocol §17: ordinals for names, numbers as text, missing sets, a line end.
    #[test]
    fn a_heartbeat_of_the_cpp_client_is_read() {
        let heartbeat: HeartbeatData = json::from_slice_tolerant(
            br#"{"clientID":"1-10.0.0.1@DEFAULT","consumerDataSet":[{"consumeFromWhere":4,"consumeType":1,
                "groupName":"CG","messageModel":1,"subscriptionDataSet":[{"subString":"TagA",
                "subVersion":"1700000000000","topic":"T"}]}],"producerDataSet":null}
"#,
        )
        .unwrap();
        let consumer = &heartbeat.consumers[0];
        assert_eq!(consumer.consume_from_where, ConsumeFromWhere::FirstOffset);
        assert_eq!(consumer.consume_type, ConsumeType::Passively);
        assert_eq!(consumer.message_model, MessageModel::Clustering);
        let subscription = &consumer.subscription_data_set[0];
        assert_eq!(subscription.sub_version, 1_700_000_000_000);
        assert!(subscription.is_tag_expression());
        assert!(subscription.filter().unwrap().matches_code(2_598_919));
    }

    /// proves: B16
    #[test]
    fn numbers_that_do_not_fit_are_errors() {
        for bad in ["1e400", "1.5", "2147483648", "9223372036854775808", "\"x\"", "[]", "{}", "true"] {
            let body = format!(r#"{{"perm":{bad}}}"#);
            assert!(json::from_slice_tolerant::<QueueData>(body.as_bytes()).is_err(), "{bad}");
        }
        assert!(json::from_slice_tolerant::<ConsumerData>(br#"{"consumeType":3}"#).is_err());
        assert!(json::from_slice_tolerant::<ConsumerData>(br#"{"consumeType":"MAYBE"}"#).is_err());
    }
}
