/* What main.c, files.c and links.c do in rless-networks, without a kernel. */
#include "networks.h"

int the_epoll = -1;
char spare[2 * LONGEST];

void watch(int fd, enum kind kind, int number, uint32_t events)
{
	struct epoll_event event = { events, { .u64 = (uint64_t)kind << 32 | (uint32_t)number } };

	if (epoll_ctl(the_epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		report("a closed descriptor is watched");
}

void answer_waiting(void)
{
	for (int i = 0; i < client_count; i++)
		clients[i].waits = false;
}

void new_pasta(int process, int pipe)
{
	close(process);
	close(pipe);
}

void delete_link(const char *name)
{
	if (strlen(name) > 15)
		report("the name of an interface is too long");
}

void tell_event(const char *line, size_t size)
{
	if (!size || size > 1023 || line[size - 1] != '\n' || memchr(line, 0, size))
		report("an event is no line");
}

ssize_t read_resolv_conf(char *text, size_t room)
{
	if (take_byte() % 2)
		return -1;
	return (ssize_t)take_bytes(text, room);
}

void add_member(int client, int network, const char *names)
{
	struct place *place = &places[place_count++];

	if (client >= client_count)
		client_count = client + 1;
	if (clients[client].fd <= 0)
		clients[client].fd = open_fake();
	memset(clients[client].id, 'a' + client, 64);
	snprintf(networks[network].bridge, sizeof(networks[network].bridge), "br-%d", network);
	networks[network].internal = network == 1;
	networks[network].gateways[0] = (struct address){ 4, { 10, 9, (uint8_t)(1 + network), 1 } };
	networks[network].prefixes[0] = 24;
	networks[network].members++;
	*place = (struct place){ .member = client, .network = network };
	place->addresses[0] = (struct address){ 4, { 10, 9, (uint8_t)(1 + network), (uint8_t)(5 + client) } };
	place->addresses[1] = (struct address){ 16, { 0xfd, 9, 0, (uint8_t)(1 + network),
						      [15] = (uint8_t)(5 + client) } };
	for (size_t at = 0; *names; at += strlen(names) + 1, names += strlen(names) + 1)
		memcpy(place->names + at, names, strlen(names));
}

void forget_members(void)
{
	for (int i = 0; i < client_count; i++)
		if (clients[i].fd >= 0)
			drop_client(i);
	for (int i = 0; i < place_count; i++)
		if (places[i].network >= 0)
			report("a member is left in a network");
	for (int i = 0; i < NETWORKS; i++)
		if (networks[i].bridge[0])
			report("a network is left without members");
	for (int i = 0; i < port_count; i++)
		if (ports[i].fd >= 0)
			report("a port is left without its member");
	memset(clients, 0, (size_t)client_count * sizeof(*clients));
	memset(places, 0, (size_t)place_count * sizeof(*places));
	client_count = place_count = port_count = 0;
}
