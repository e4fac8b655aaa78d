package interop;

/** All scenarios of one client release in one process: {@code Main NAME_SERVER RELEASE MESSAGES PATTERN RECEIPTS}. */
final class Main {
    private Main() {}

    public static void main(String[] arguments) throws Exception {
        var harness = new Harness(arguments[0], arguments[1], Integer.parseInt(arguments[2]), arguments[3]);
        var sending = new Sending(harness);
        sending.scenarios();
        new Consuming(harness, sending).scenarios();
        new Retrying(harness).scenarios();
        new Administering(harness).scenarios();
        Receipts.write(arguments[4], sending.corpus);
        // Some clients leave threads behind that would keep the process. The caller tells 42 from an exit in the middle.
        System.exit(42);
    }
}
