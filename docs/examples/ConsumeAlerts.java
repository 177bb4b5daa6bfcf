// Prints what cameras tell, one line an alert; at-least-once, equal ids dropped.
//
// java -cp "kafka/libs/*" ConsumeAlerts.java localhost:9092

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

public class ConsumeAlerts {
    private static final int SEEN_AT_MOST = 100_000;
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", arguments[0],
                "group.id", "alerts-example-java",
                "auto.offset.reset", "earliest",
                "enable.auto.commit", "false",
                "isolation.level", "read_committed");
        Set<String> seen = Collections.newSetFromMap(new LinkedHashMap<>() {
            @Override
            protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
                return size() > SEEN_AT_MOST;
            }
        });
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of("alerts"));
            while (true) {
                for (ConsumerRecord<String, byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    JsonNode alert = JSON.readTree(record.value());
                    if (seen.add(alert.get("id").asText())) {
                        tell(alert);
                    }
                }
                // After they were told: a crash in between tells them again, under the same ids.
                consumer.commitSync();
            }
        }
    }

    private static void tell(JsonNode alert) {
        JsonNode data = alert.get("data");
        String what = alert.get("type").asText().replaceFirst("^framewatch\\.", "").replaceFirst("\\.v1$", "");
        String detail = what.startsWith("anomaly.")
                ? String.format(", %s, score %.2f", data.get("severity").asText(), data.get("peak_score").asDouble())
                : "";
        System.out.println(alert.get("time").asText() + " " + alert.get("subject").asText() + " " + what + detail);
    }
}
