use super::*;
use crate::{CallError, CloseReason, Command};

struct Echo;

impl Service for Echo {
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        for request in requests.drain(..) {
            let _ = connection.send(request.answer(0).with_body(request.body.clone()));
        }
    }
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

#[test]
fn a_call_comes_back() {
    let tcp = Tcp::start(TcpOptions::default()).unwrap();
    let listener = tcp.listen(loopback(), Arc::new(Echo)).unwrap();
    let connection = tcp.block_on(tcp.connect(listener.address(), Arc::new(Echo))).unwrap();
    let limit = Duration::from_secs(3);
    let answer = tcp.block_on(connection.call(Command::request(1).with_body("hello"), limit)).unwrap();
    assert_eq!(answer.body.to_bytes(), "hello");
    connection.close();
    assert!(matches!(tcp.block_on(connection.call(Command::request(1), limit)), Err(CallError::Send(_))));
    let _ = CloseReason::Local;
}
