package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.io.File;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;
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

    /** What is done with a group that runs. */
    interface Use {
        void with(Harness harness, List<Server> nodes) throws Exception;
    }

    /**
     * Starts a group's nodes, waits until they lead and follow, uses them, and ends them and this program. {@code arguments} are
     * name servers, log, the program's own, and from {@code first} on a port and a command for each node.
     */
    static void group(String[] arguments, int first, Use use) throws Exception {
        var nodes = new ArrayList<Server>();
        for (int at = first; at < arguments.length; at += 2) {
            nodes.add(new Server(Integer.parseInt(arguments[at]), arguments[at + 1], new File(arguments[1])));
        }
        try {
            for (Server node : nodes) {
                node.start();
            }
            var harness = new Harness(arguments[0], "5.4.0", 0, ".");
            // A client hears of a new leader when it asks for routes; its 30 s would be most of the test.
            harness.pollRoutesEvery(250);
            until("all nodes are registered", 60, () -> harness.registered() == nodes.size());
            use.with(harness, nodes);
        } finally {
            for (Server node : nodes) {
                node.end(true);
            }
        }
        System.exit(42);
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
