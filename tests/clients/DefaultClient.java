import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Sends requests with java.net.http.HttpClient, which offers to upgrade to HTTP/2 by default. */
class DefaultClient {
    static URI uri;

    public static void main(String[] arguments) throws Exception {
        uri = URI.create(arguments[0] + "/tasks");
        HttpClient client = HttpClient.newHttpClient();
        HttpClient http1 = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        send("GET", client, get());
        send("POST", client, post());
        send("POST with HTTP_1_1", http1, post());
        send("GET with HTTP_1_1", http1, get());
    }

    static HttpRequest get() {
        return HttpRequest.newBuilder(uri).build();
    }

    static HttpRequest post() {
        return HttpRequest.newBuilder(uri)
                .header("Content-Type", "application/json")
                .POST(BodyPublishers.ofString("{\"name\": \"Buy milk\", \"done\": false}"))
                .build();
    }

    static void send(String title, HttpClient client, HttpRequest request) throws Exception {
        var response = client.send(request, BodyHandlers.ofString());
        System.out.println(title + ": " + response.statusCode() + " " + response.body());
    }
}
