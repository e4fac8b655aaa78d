package interop;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;

/** What the broker said it stored, one line a message: topic, queue id, queue offset, value of property {@code n}. */
final class Receipts {
    private Receipts() {}

    static void write(String file, Corpus corpus) throws IOException {
        var lines = new ArrayList<String>();
        corpus.receipts.forEach((n, place) -> lines.add(corpus.topic + "\t" + place[0] + "\t" + place[1] + "\t" + n));
        Files.write(Path.of(file), lines);
    }
}
