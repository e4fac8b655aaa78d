package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.io.File;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.util.concurrent.TimeUnit;

/** A server that dies and comes back: a process by its command, a shell line that execs it. */
final class Server {
    final int port;
    private final String command;
    private final File log;
    private Process process;

    Server(int port, String command, File log) {
        this.port = port;
        this.command = command;
        this.log = log;
    }

    static Process launch(String command, File log) throws Exception {
        return new ProcessBuilder("bash", "-c", command).redirectErrorStream(true).redirectOutput(ProcessBuilder.Redirect.appendTo(log)).start();
    }

    /** Starts it, and waits until it listens. */
    void start() throws Exception {
        process = launch(command, log);
        until("the server listens", 60, () -> {
            check(process.isAlive(), "the server ended with status %d while it started", process.isAlive() ? 0 : process.exitValue());
            try (var socket = new Socket()) {
                socket.connect(new InetSocketAddress("127.0.0.1", port), 100);
                return true;
            }
        });
    }

    /** Ends it with SIGKILL or SIGTERM. Nothing happens to a server that has ended. */
    void end(boolean kill) throws Exception {
        if (process == null) {
            return;
        }
        if (kill) {
            process.destroyForcibly();
        } else {
            process.destroy();
        }
        check(process.waitFor(30, TimeUnit.SECONDS), "the server did not end");
        check(kill || process.exitValue() == 0 || process.exitValue() == 143, "the stopped server's status is %d", process.exitValue());
    }
}
