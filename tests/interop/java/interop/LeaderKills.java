package interop;

import static interop.Harness.check;
import static interop.Harness.until;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;

/**
 * The leader of a group of three dies under load, again and again: nothing acknowledged may be missing, no queue out of order, no
 * progress lost that was shown.
 *
 * {@code LeaderKills NAME_SERVERS LOG SEED KILLS (PORT SERVER_COMMAND)...}: starts the nodes by their commands, loads them with a
 * producer a queue (half of them asynchronous), a group of concurrent and one of orderly consumers, and ends whoever leads.
 */
final class LeaderKills {
    private final Harness harness;
    private final List<Server> nodes;
    private final Random random;
    private final Load load;
    private final List<Load.Group> groups;
    /** How long nothing was acknowledged around each kill, in milliseconds. */
    private final List<Long> outages = new ArrayList<>();

    private LeaderKills(Harness harness, List<Server> nodes, long seed) throws Exception {
        this.harness = harness;
        this.nodes = nodes;
        this.random = new Random(seed);
        this.load = new Load(harness, "leaders");
        this.groups = List.of(load.new Group("concurrent", false, Load.QUEUES / 2), load.new Group("orderly", true, Load.QUEUES / 2));
    }

    public static void main(String[] arguments) throws Exception {
        long seed = Long.parseLong(arguments[2]);
        int kills = Integer.parseInt(arguments[3]);
        Server.group(arguments, 4, (harness, nodes) -> harness.scenario(
                "leader kills: " + kills + " kill -9 of the leader of " + nodes.size() + ", seed " + seed,
                () -> new LeaderKills(harness, nodes, seed).run(kills)));
    }

    private String run(int kills) throws Exception {
        try {
            for (Load.Group group : groups) {
                group.start();
            }
            load.produce("leader-killed-sender", Load.QUEUES / 2);
            for (int kill = 0; kill < kills; kill++) {
                letItRun();
                killTheLeader();
            }
            letItRun();
        } finally {
            load.stopProducing();
        }
        for (Load.Group group : groups) {
            until(group::missing, 90, () -> group.missing() == null);
            until("every offset is stored", 30, () -> {
                group.persist();
                return Arrays.equals(group.stored(), group.consumed());
            });
        }
        Collections.sort(outages);
        return String.format("%d acknowledged and consumed by 2 groups, %d and %d deliveries repeated, without an acknowledgement for %d ms "
                + "(median; at most %d)", load.acknowledged.get(), groups.get(0).repeated, groups.get(1).repeated,
                outages.get(outages.size() / 2), outages.get(outages.size() - 1));
    }

    /** Waits for some progress of all sides since the last kill, then for a moment that has nothing to do with it. */
    private void letItRun() throws Exception {
        long sent = load.acknowledged.get() + 20 + random.nextInt(600);
        until(() -> "the producers make progress: " + load.acknowledged + " of " + sent, 60, () -> load.acknowledged.get() >= sent);
        for (Load.Group group : groups) {
            long seen = group.total() + 1 + random.nextInt(200);
            until(() -> "a consumer makes progress to " + seen, 60, () -> group.total() >= seen);
        }
        TimeUnit.MICROSECONDS.sleep(random.nextInt(300_000));
    }

    private void killTheLeader() throws Exception {
        var leader = new Server[1];
        until("there is a leader", 60, () -> (leader[0] = leader()) != null);
        var shown = new ArrayList<long[]>();
        for (Load.Group group : groups) {
            shown.add(group.stored());
        }
        leader[0].end(true);
        long start = System.nanoTime();
        long acknowledged = load.acknowledged.get();
        until("another leader acknowledges", 60, () -> leader() != leader[0] && load.acknowledged.get() > acknowledged);
        long outage = (System.nanoTime() - start) / 1_000_000;
        outages.add(outage);
        for (int at = 0; at < shown.size(); at++) {
            long[] stored = groups.get(at).stored();
            long[] consumed = groups.get(at).consumed();
            for (int queue = 0; queue < Load.QUEUES; queue++) {
                check(stored[queue] >= shown.get(at)[queue], "queue %d: the new leader has offset %d stored, the old one showed %d", queue,
                        stored[queue], shown.get(at)[queue]);
                check(stored[queue] <= consumed[queue], "queue %d: stored offset %d, but only %d were consumed", queue, stored[queue],
                        consumed[queue]);
            }
        }
        System.err.printf("killed the leader at %d after %d acknowledged; %d ms later another acknowledged%n", leader[0].port, acknowledged,
                outage);
        leader[0].start();
        // Two of three must be there for the next one.
        until("the killed node is back", 60, () -> harness.registered() == nodes.size());
    }

    private Server leader() throws Exception {
        String address = harness.brokerAddress();
        return nodes.stream().filter(node -> address != null && address.endsWith(":" + node.port)).findFirst().orElse(null);
    }
}
