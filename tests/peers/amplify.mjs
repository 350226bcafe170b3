// Run AWS Amplify's own PubSub, unmodified, under Node: subscribe, publish, and print the received message as JSON.
// WebSocket, which Node lacks, is provided. NODE_EXTRA_CA_CERTS contains the authority.
//
//   node amplify.mjs ENDPOINT REGION TOPIC [IDENTITY_POOL_ID COGNITO_ENDPOINT]
//
// Keys come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or from the identity pool, as a guest.
import WebSocket from 'ws';

globalThis.WebSocket = WebSocket;
const { Amplify } = await import('aws-amplify');
const { Hub } = await import('aws-amplify/utils');
const { PubSub } = await import('@aws-amplify/pubsub');

const [endpoint, region, topic, identityPoolId, identityPoolEndpoint] = process.argv.slice(2);
const keys = {
	accessKeyId: process.env.AWS_ACCESS_KEY_ID,
	secretAccessKey: process.env.AWS_SECRET_ACCESS_KEY,
	sessionToken: process.env.AWS_SESSION_TOKEN,
};

if (identityPoolId) {
	Amplify.configure({ Auth: { Cognito: { identityPoolId, identityPoolEndpoint, allowGuestAccess: true } } });
} else {
	Amplify.configure(
		{},
		{
			Auth: {
				credentialsProvider: {
					getCredentialsAndIdentityId: async () => ({ credentials: keys }),
					clearCredentialsAndIdentityId: () => {},
				},
			},
		},
	);
}

const finish = result => {
	process.stdout.write(JSON.stringify(result) + '\n', () => process.exit(0));
};
const states = [];
Hub.listen('pubsub', ({ payload }) => {
	const state = payload.data?.connectionState;
	if (state) states.push(state);
	if (state === 'Connected') publish();
	// Paho has tried MQTT 3.1.1 and 3.1; the door stays shut.
	if (state === 'ConnectionDisrupted') finish({ received: null, states });
});

const pubsub = new PubSub({ region, endpoint });
let published = false;
const publish = () => {
	if (published) return;
	published = true;
	// "Connected" is reported before the subscription has been sent; the next turn of the loop is after that.
	setTimeout(() => pubsub.publish({ topics: topic, message: { msg: 'Hello from Amplify' } }), 0);
};
pubsub.subscribe({ topics: topic }).subscribe({
	next: message => finish({ received: message, states }),
	error: error => finish({ received: null, error: String(error), states }),
});
setTimeout(() => finish({ received: null, error: 'no answer in time', states }), 20000);
