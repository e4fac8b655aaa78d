//! One function per request: decode, one step of the table, answer.

use std::fmt::{Display, Write as _};

use staticfire_transport::{Command, ConnectionId};

use super::service::Shared;
use super::{NotRegistered, UnitTopics};
use crate::protocol::body::{
    DataVersion, KvTable, MemberGroupBody, RegisterBrokerBody, TopicList, TopicRouteData,
};
use crate::protocol::codes::{request as code, response};
use crate::protocol::header::{self, Header, HeaderError};
use crate::protocol::headers::{
    AddWriteResponse, BrokerHeartbeatRequest, BrokerNameRequest, BrokerRequest, ClusterRequest,
    MemberGroupRequest, NameServerTopicRequest, NamespaceRequest, PutSettingRequest,
    QueryDataVersionResponse, RegisterBrokerRequest, RegisterBrokerResponse, RouteRequest, SettingRequest,
    SettingResponse, WipeWriteResponse,
};
use crate::protocol::json::{self, BodyError};
use crate::protocol::names::ORDER_TOPIC_NAMESPACE;

/// A refusal: code and remark.
struct Refusal(i32, String);

impl Refusal {
    fn new(code: i32, remark: impl Display) -> Self {
        Self(code, remark.to_string())
    }
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::new(response::SYSTEM_ERROR, error)
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::new(response::SYSTEM_ERROR, error)
    }
}

type Answer = Result<Command, Refusal>;

/// Carries out a request and makes its answer.
pub(super) fn answer(server: &Shared, connection: ConnectionId, request: &Command) -> Command {
    let answer = match request.code {
        code::GET_ROUTEINFO_BY_TOPIC => route(server, request),
        code::REGISTER_BROKER => register(server, connection, request),
        code::UNREGISTER_BROKER => unregister(server, connection, request),
        code::BROKER_HEARTBEAT => heartbeat(server, connection, request),
        code::QUERY_DATA_VERSION => query_version(server, connection, request),
        code::GET_BROKER_CLUSTER_INFO => {
            Ok(done(request).with_body(json::to_bytes(&server.read().cluster_info())))
        }
        code::GET_BROKER_MEMBER_GROUP => members(server, request),
        code::WIPE_WRITE_PERM_OF_BROKER | code::ADD_WRITE_PERM_OF_BROKER => set_writable(server, request),
        code::GET_ALL_TOPIC_LIST_FROM_NAME_SERVER => topic_list(request, server.read().topics(), None),
        code::GET_TOPICS_BY_CLUSTER => topics_of_cluster(server, request),
        code::GET_SYSTEM_TOPIC_LIST_FROM_NAME_SERVER => {
            let (names, address) = server.read().system_topics();
            topic_list(request, names, address)
        }
        code::GET_UNIT_TOPIC_LIST => unit_topics(server, request, UnitTopics::Unit),
        code::GET_HAS_UNIT_SUB_TOPIC_LIST => unit_topics(server, request, UnitTopics::Subscribed),
        code::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST => unit_topics(server, request, UnitTopics::SubscribedOnly),
        code::DELETE_TOPIC_IN_NAME_SERVER => delete_topic(server, request),
        code::REGISTER_TOPIC_IN_NAME_SERVER => register_topic(server, request),
        code::PUT_KV_CONFIG => put_setting(server, request),
        code::GET_KV_CONFIG => setting(server, request),
        code::DELETE_KV_CONFIG => delete_setting(server, request),
        code::GET_KV_LIST_BY_NAMESPACE => settings_of_namespace(server, request),
        code::GET_NAME_SERVER_CONFIG => Ok(done(request).with_body(configuration(server))),
        code::UPDATE_NAME_SERVER_CONFIG => {
            Err(Refusal::new(response::NO_PERMISSION, "the configuration cannot be changed from remote"))
        }
        unknown => Err(Refusal::new(
            response::REQUEST_CODE_NOT_SUPPORTED,
            format_args!(" request type {unknown} not supported"),
        )),
    };
    answer.unwrap_or_else(|Refusal(code, remark)| request.answer(code).with_remark(remark))
}

fn done(request: &Command) -> Command {
    request.answer(response::SUCCESS)
}

fn route(server: &Shared, request: &Command) -> Answer {
    let RouteRequest { topic, .. } = header::read(request)?;
    let options = server.options;
    match server.read().route(&topic, options.order_messages, options.acting_master) {
        Some(route) => Ok(done(request).with_body(json::to_bytes(&route))),
        None => Err(Refusal::new(
            response::TOPIC_NOT_EXIST,
            format_args!("No topic route info in name server for the topic: {}", header::excerpt(&topic)),
        )),
    }
}

fn register(server: &Shared, connection: ConnectionId, request: &Command) -> Answer {
    let registration: RegisterBrokerRequest = header::read(request)?;
    let bytes = request.body.to_bytes();
    if registration.body_crc != 0 && registration.body_crc != crc(&bytes) {
        return Err(Refusal::new(response::SYSTEM_ERROR, "crc32 not match"));
    }
    let body = RegisterBrokerBody::read(&bytes, request.version)?;
    let now = server.runtime.now();
    let mut table = server.write();
    let registered = table
        .register(now, connection, &registration, body.topic_config_serialize_wrapper)
        .map_err(|error| Refusal::new(response::SYSTEM_ERROR, error))?;
    let (master_address, ha_address) = registered.master.unzip();
    let mut answer = RegisterBrokerResponse { master_address, ha_address }.on(done(request));
    let order = table.settings.namespace(ORDER_TOPIC_NAMESPACE);
    if let Some(order) = order.filter(|_| server.options.order_settings_to_brokers) {
        answer = answer.with_body(json::to_bytes(&KvTable { table: order.clone() }));
    }
    Ok(answer)
}

/// CRC-32 without its top bit, as the registration header carries it.
fn crc(bytes: &[u8]) -> i32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    (crc.sum() & 0x7FFF_FFFF).cast_signed()
}

fn unregister(server: &Shared, connection: ConnectionId, request: &Command) -> Answer {
    let broker: BrokerRequest = header::read(request)?;
    match server.write().unregister(connection, &broker) {
        Err(NotRegistered::OtherConnection) => Err(Refusal::new(
            response::NO_PERMISSION,
            "the broker was registered over another connection, which alone may unregister it",
        )),
        Ok(()) | Err(NotRegistered::Unknown) => Ok(done(request)),
    }
}

/// Answers success for unknown brokers too, as RocketMQ does: they find out when they register.
fn heartbeat(server: &Shared, connection: ConnectionId, request: &Command) -> Answer {
    let heartbeat: BrokerHeartbeatRequest = header::read(request)?;
    let now = server.runtime.now();
    let _ = server.write().heartbeat(now, connection, &heartbeat);
    Ok(done(request))
}

fn query_version(server: &Shared, connection: ConnectionId, request: &Command) -> Answer {
    let broker: BrokerRequest = header::read(request)?;
    let version: DataVersion = json::from_slice_or_default(&request.body.to_bytes())?;
    let now = server.runtime.now();
    let (changed, known) = server.write().query_version(now, connection, &broker, version);
    let answer = QueryDataVersionResponse { changed }.on(done(request));
    Ok(match known {
        Some(known) => answer.with_body(json::to_bytes(&known)),
        None => answer,
    })
}

fn members(server: &Shared, request: &Command) -> Answer {
    let MemberGroupRequest { cluster_name, broker_name } = header::read(request)?;
    let body = MemberGroupBody { broker_member_group: server.read().members(&cluster_name, &broker_name) };
    Ok(done(request).with_body(json::to_bytes(&body)))
}

fn set_writable(server: &Shared, request: &Command) -> Answer {
    let BrokerNameRequest { broker_name } = header::read(request)?;
    let writable = request.code == code::ADD_WRITE_PERM_OF_BROKER;
    let visited = server.write().set_writable(&broker_name, writable);
    let topics = i32::try_from(visited).unwrap_or(i32::MAX);
    let answer = done(request);
    Ok(if writable {
        AddWriteResponse { topics }.on(answer)
    } else {
        WipeWriteResponse { topics }.on(answer)
    })
}

fn topic_list(request: &Command, topic_list: Vec<String>, broker_addr: Option<String>) -> Answer {
    Ok(done(request).with_body(json::to_bytes(&TopicList { broker_addr, topic_list })))
}

fn topics_of_cluster(server: &Shared, request: &Command) -> Answer {
    let ClusterRequest { cluster } = header::read(request)?;
    topic_list(request, server.read().topics_of_cluster(&cluster), None)
}

fn unit_topics(server: &Shared, request: &Command, which: UnitTopics) -> Answer {
    topic_list(request, server.read().unit_topics(which), None)
}

fn delete_topic(server: &Shared, request: &Command) -> Answer {
    let NameServerTopicRequest { topic, cluster_name } = header::read(request)?;
    server.write().delete_topic(&topic, cluster_name.as_deref().filter(|name| !name.is_empty()));
    Ok(done(request))
}

fn register_topic(server: &Shared, request: &Command) -> Answer {
    let NameServerTopicRequest { topic, .. } = header::read(request)?;
    let route: TopicRouteData = json::from_slice_or_default(&request.body.to_bytes())?;
    server.write().register_topic(&topic, &route.queue_datas);
    Ok(done(request))
}

fn put_setting(server: &Shared, request: &Command) -> Answer {
    let PutSettingRequest { namespace, key, value } = header::read(request)?;
    let put = server.write().settings.put(namespace, key, value);
    put.map(|()| done(request)).map_err(|error| Refusal::new(response::SYSTEM_ERROR, error))
}

fn setting(server: &Shared, request: &Command) -> Answer {
    let SettingRequest { namespace, key } = header::read(request)?;
    let value = server.read().settings.value(&namespace, &key).map(str::to_owned);
    if value.is_none() {
        return Err(not_found(&namespace, &key));
    }
    Ok(SettingResponse { value }.on(done(request)))
}

fn delete_setting(server: &Shared, request: &Command) -> Answer {
    let SettingRequest { namespace, key } = header::read(request)?;
    server.write().settings.delete(&namespace, &key);
    Ok(done(request))
}

fn settings_of_namespace(server: &Shared, request: &Command) -> Answer {
    let NamespaceRequest { namespace } = header::read(request)?;
    let table = server.read();
    let entries = table.settings.namespace(&namespace).ok_or_else(|| not_found(&namespace, "*"))?;
    Ok(done(request).with_body(json::to_bytes(&KvTable { table: entries.clone() })))
}

fn not_found(namespace: &str, key: &str) -> Refusal {
    let (namespace, key) = (header::excerpt(namespace), header::excerpt(key));
    Refusal::new(response::QUERY_NOT_FOUND, format_args!("No config item, Namespace: {namespace} Key: {key}"))
}

/// The settings that may be read, as properties text: an allow-list without paths or secrets.
fn configuration(server: &Shared) -> String {
    let options = server.options;
    let mut text = String::new();
    let entries: [(&str, &dyn Display); 6] = [
        ("bindAddress", &options.listen.ip()),
        ("listenPort", &options.listen.port()),
        ("orderMessageEnable", &options.order_messages),
        ("returnOrderTopicConfigToBroker", &options.order_settings_to_brokers),
        ("scanNotActiveBrokerInterval", &options.scan_interval.as_millis()),
        ("supportActingMaster", &options.acting_master),
    ];
    for (key, value) in entries {
        writeln!(text, "{key}={value}").expect("writing to a string succeeds");
    }
    text
}
