const http = require("http");
const greet = require("greet");

const server = http.createServer((request, response) => response.end(greet("request")));
server.listen(0, "127.0.0.1", () => {
  http.get({ host: "127.0.0.1", port: server.address().port }, (answer) => {
    answer.on("data", (data) => console.log(String(data)));
    answer.on("end", () => server.close());
  });
});
