// Verifies deliveries by the reference library of Standard Webhooks. Reads {"secret", "headers", "body"} in JSON, one a
// line; prints a line for each: `ok`, or what is wrong.
const { Webhook } = require("standardwebhooks");
const lines = require("fs").readFileSync(0, "utf8").split("\n").filter(Boolean);
for (const line of lines) {
  const { secret, headers, body } = JSON.parse(line);
  try {
    new Webhook(secret).verify(body, headers);
    console.log("ok");
  } catch (error) {
    console.log(error.message);
  }
}
