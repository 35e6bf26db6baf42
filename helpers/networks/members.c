/* Who is in which network, and what commands ask. */
#include "networks.h"

#include <stdlib.h>

enum { MESSAGE = 8192, WORDS = 64 };

struct client clients[CLIENTS];
struct network networks[NETWORKS];
struct place places[PLACES];
int client_count, place_count;

static bool is_ours(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == getuid();
}

void accept_client(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), i;

	if (fd < 0)
		return;
	for (i = 0; i < CLIENTS && clients[i].fd >= 0 && i < client_count; i++)
		;
	if (i == CLIENTS || !is_ours(fd)) {
		close(fd);
		return;
	}
	if (i == client_count)
		client_count++;
	clients[i] = (struct client){ .fd = fd };
	send(fd, "H", 1, MSG_NOSIGNAL); /* served: this hub is no longer about to end */
	watch(fd, CLIENT, i, EPOLLIN);
}

/* -- bridges ----------------------------------------------------------------------------------- */

static int find_network(const char *bridge)
{
	for (int i = 0; i < NETWORKS; i++)
		if (*bridge && strcmp(networks[i].bridge, bridge) == 0)
			return i;
	return -1;
}

static int find_member(const char *id)
{
	for (int i = 0; i < client_count; i++)
		if (clients[i].fd >= 0 && *id && strcmp(clients[i].id, id) == 0)
			return i;
	return -1;
}

static int find_place(int member, int network)
{
	for (int i = 0; i < place_count; i++)
		if (places[i].network == network && places[i].member == member)
			return i;
	return -1;
}

/* Return the place that has an address; -1: it is nobody's. */
int place_of(const struct address *address)
{
	for (int i = 0; i < place_count; i++)
		if (places[i].network >= 0 &&
		    same(&places[i].addresses[address->size == 16], address))
			return i;
	return -1;
}

bool of_one_member(const struct address *one, const struct address *other)
{
	int place = place_of(one), other_place = place_of(other);

	if (place < 0 || other_place < 0)
		return place == other_place; /* who is no member is one of the others */
	return places[place].member == places[other_place].member;
}

static bool equal_up_to(const char *one, const char *other, size_t size)
{
	for (; size && lower(*one) == lower(*other); size--)
		one++, other++;
	return !size;
}

/* Whether a place is found by a name, in lower or upper case. */
bool has_name(const struct place *place, const char *name)
{
	for (const char *at = place->names; *at; at += strlen(at) + 1)
		if (equal(at, name))
			return true;
	return false;
}

/* Whether a member calls a place so, in a network of both: by a link, ALIAS>NAME among its names. */
bool is_linked(int member, const struct place *place, const char *name)
{
	size_t size = strlen(name);

	for (int i = 0; i < place_count; i++) {
		if (places[i].member != member || places[i].network != place->network)
			continue;
		for (const char *at = places[i].names; *at; at += strlen(at) + 1)
			if (strlen(at) > size && at[size] == '>' && equal_up_to(at, name, size) &&
			    has_name(place, at + size + 1))
				return true;
	}
	return false;
}

/* Tell `events` that a container has left a network. The id and the name are what the command has
 * checked. */
static void tell_of_end(const struct network *network, const char *id)
{
	char said[1024];
	struct timespec time;
	int size;

	clock_gettime(CLOCK_REALTIME, &time);
	size = snprintf(said, sizeof(said),
			"{\"time\":%lld%09ld,\"type\":\"network\",\"action\":\"disconnect\",\"id\":\"%s\","
			"\"attributes\":{\"container\":\"%s\",\"name\":\"%s\",\"type\":\"bridge\"}}\n",
			(long long)time.tv_sec, time.tv_nsec, network->id, id, network->name);
	tell_event(said, (size_t)size);
}

static void leave(int place)
{
	struct network *network = &networks[places[place].network];

	tell_of_end(network, clients[places[place].member].id);
	places[place].network = -1;
	delete_link(places[place].outside);
	if (--network->members == 0) {
		delete_link(network->bridge);
		network->bridge[0] = 0;
	}
}

void drop_client(int number)
{
	struct client *client = &clients[number];

	if (*client->id) {
		drop_ports(number);
		for (int i = 0; i < place_count; i++)
			if (places[i].network >= 0 && places[i].member == number)
				leave(i);
	}
	close(client->fd); /* last: who waits for this knows that the names and ports are gone */
	client->fd = -1;
	client->id[0] = 0;
}

/* -- what is asked ----------------------------------------------------------------------------- */

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Read hexadecimal digits, of 4 or 16 bytes; return what is behind them, NULL: they are none. */
static const char *read_address(const char *text, struct address *address)
{
	*address = (struct address){ 0 };
	for (; digit(text[0]) >= 0 && digit(text[1]) >= 0; text += 2) {
		if (address->size == 16)
			return NULL;
		address->bytes[address->size++] = (uint8_t)(16 * digit(text[0]) + digit(text[1]));
	}
	return address->size == 0 || address->size == 4 || address->size == 16 ? text : NULL;
}

static int read_gateway(const char *text, struct network *network, int family)
{
	const char *rest = read_address(text, &network->gateways[family]);
	long long bits;

	if (!rest || (*text && *rest != '/'))
		return EINVAL;
	bits = *rest ? strtoll(rest + 1, NULL, 10) : 0;
	if (bits < 0 || bits > 8 * network->gateways[family].size)
		return EINVAL;
	network->prefixes[family] = (uint8_t)bits;
	return 0;
}

/* Set all names of a place, or none of them. */
static int set_names(struct place *place, char **words)
{
	char names[NAMES] = { 0 };
	size_t used = 0;

	for (; *words; words++) {
		size_t size = strlen(*words) + 1;

		if (size > NAME || used + size >= NAMES)
			return E2BIG;
		memcpy(names + used, *words, size);
		used += size;
	}
	memcpy(place->names, names, NAMES);
	return 0;
}

static int new_network(char **words)
{
	int i;

	for (i = 0; i < NETWORKS && networks[i].bridge[0]; i++)
		;
	if (i == NETWORKS)
		return -1;
	networks[i] = (struct network){ .internal = *words[5] == '1' };
	if (read_gateway(words[7], &networks[i], 0) || read_gateway(words[8], &networks[i], 1))
		return -1;
	snprintf(networks[i].id, sizeof(networks[i].id), "%s", words[3]);
	snprintf(networks[i].name, sizeof(networks[i].name), "%s", words[4]);
	snprintf(networks[i].bridge, sizeof(networks[i].bridge), "%s", words[2]);
	return i;
}

/* J id bridge network-id network-name internal outside gateway4 gateway6 address4 address6 name... */
static int join(int number, char **words, int count)
{
	int member = count > 1 ? find_member(words[1]) : -1, network, i;
	struct place *place;

	if (count < 12 || strlen(words[1]) != 64 || !*words[2] || strlen(words[2]) > 15 ||
	    strlen(words[6]) > 15)
		return EINVAL;
	if (member < 0) {
		if (clients[number].id[0])
			return EBUSY; /* it is another container's */
		member = number;
	}
	network = find_network(words[2]);
	if (network >= 0 && find_place(member, network) >= 0)
		return EEXIST;
	if (network < 0)
		network = new_network(words);
	if (network < 0)
		return ENOSPC;
	for (i = 0; i < place_count && places[i].network >= 0; i++)
		;
	if (i == PLACES) {
		if (networks[network].members == 0)
			networks[network].bridge[0] = 0;
		return ENOSPC;
	}
	if (i >= place_count)
		place_count = i + 1;
	place = &places[i];
	place->member = member;
	place->network = network;
	networks[network].members++;
	memcpy(clients[member].id, words[1], 65);
	snprintf(place->outside, sizeof(place->outside), "%s", words[6]);
	if (!read_address(words[9], &place->addresses[0]) ||
	    !read_address(words[10], &place->addresses[1]) || set_names(place, words + 11)) {
		leave(i);
		return EINVAL;
	}
	return 0;
}

/* L id bridge, N id bridge name... */
static int change(char **words, int count)
{
	int member = count > 2 ? find_member(words[1]) : -1;
	int network = count > 2 ? find_network(words[2]) : -1;
	int place = member < 0 || network < 0 ? -1 : find_place(member, network);

	if (place < 0)
		return ENOENT;
	if (words[0][0] == 'N')
		return set_names(&places[place], words + 3);
	leave(place);
	return 0;
}

static bool is_of_network(const struct network *network, const struct address *address)
{
	int family = address->size == 16, bits = network->prefixes[family];
	const uint8_t *gateway = network->gateways[family].bytes;

	return network->gateways[family].size == address->size &&
	       memcmp(gateway, address->bytes, (size_t)bits / 8) == 0 &&
	       (bits % 8 == 0 || (gateway[bits / 8] ^ address->bytes[bits / 8]) >> (8 - bits % 8) == 0);
}

bool is_inside(const struct address *address)
{
	for (int i = 0; i < NETWORKS; i++)
		if (networks[i].bridge[0] && is_of_network(&networks[i], address))
			return true;
	return false;
}

bool has_way_out(int member)
{
	for (int i = 0; i < place_count; i++)
		if (places[i].network >= 0 && places[i].member == member &&
		    !networks[places[i].network].internal)
			return true;
	return false;
}

bool is_neighbour(int member, const struct address *address)
{
	for (int i = 0; i < place_count; i++)
		if (places[i].network >= 0 && places[i].member == member &&
		    is_of_network(&networks[places[i].network], address))
			return true;
	return false;
}

static int set_servers(struct client *client, char **words, int count)
{
	client->server_count = 0;
	for (int i = 1; i < count && client->server_count < SERVERS; i++) {
		struct server *server = &client->servers[client->server_count];

		*server = (struct server){ 0 };
		if (!read_address(words[i], &server->address) || !server->address.size)
			return EINVAL;
		server->inside = is_inside(&server->address);
		client->server_count++;
	}
	return 0;
}

/* Read a message with what descriptors come with it. */
static ssize_t receive(int fd, char *data, size_t room, int *fds, int *count)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct iovec part = { data, room };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	ssize_t size = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	*count = 0;
	if (size >= 0 && message.msg_controllen >= CMSG_LEN(sizeof(int)) &&
	    control.header.cmsg_type == SCM_RIGHTS) {
		*count = (int)((control.header.cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(&control.header), (size_t)*count * sizeof(int));
	}
	return size;
}

void read_message(int number)
{
	static char said[MESSAGE];
	char *words[WORDS + 1] = { NULL }, answer[2];
	int fds[2] = { -1, -1 }, fd_count, count = 0, error = EINVAL;
	struct client *client = &clients[number];
	ssize_t size = receive(client->fd, said, sizeof(said) - 1, fds, &fd_count);

	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (size <= 0) {
		drop_client(number);
		return;
	}
	said[size] = 0;
	for (char *at = said; at < said + size && count <= WORDS; at += strlen(at) + 1)
		words[count++] = at;
	words[WORDS] = NULL;
	switch (count > WORDS ? 0 : said[0]) { /* not the half of what is too long */
	case 'J':
		error = join(number, words, count);
		break;
	case 'L': case 'N':
		error = change(words, count);
		break;
	case 'S':
		error = set_servers(client, words, count);
		break;
	case 'P':
		if (count == 2 && fd_count == 1 && *client->id) { /* not a member: nobody to end it with */
			error = add_port(number, fds[0], (uint16_t)strtoll(words[1], NULL, 10));
			if (error == 0)
				fd_count = 0;
		}
		break;
	case 'O':
		if (fd_count == 2) {
			new_pasta(fds[0], fds[1]);
			fd_count = 0;
			error = 0;
		}
		break;
	case 'W':
		client->waits = true;
		break;
	}
	for (int i = 0; i < fd_count; i++)
		close(fds[i]);
	if (said[0] == 'W') {
		answer_waiting();
		return;
	}
	answer[0] = said[0];
	answer[1] = (char)error;
	send(client->fd, answer, 2, MSG_NOSIGNAL | MSG_DONTWAIT);
}
