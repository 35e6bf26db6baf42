/*
 * What the files of rless-networks share; main.c says what the program does.
 */
#ifndef NETWORKS_H
#define NETWORKS_H

#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef IPV6_TRANSPARENT
#define IPV6_TRANSPARENT 75 /* older than the C library's headers may know */
#endif

enum {
	CLIENTS = 2048,     /* connections: a member each, and commands */
	NETWORKS = 256,
	PLACES = 4096,      /* members in networks */
	NAMES = 1024,       /* bytes of all names of a member in a network (attachment.names_of) */
	NAME = 254,         /* ... of one of them, with its NUL */
	SERVERS = 3,        /* name servers asked for one question, as in resolv.conf(5) */
	PORTS = 4096,       /* published ports */
	CONNECTIONS = 32768,
	FLOWS = 1024,       /* who talks UDP to a published port */
	QUESTIONS = 64,     /* asked of the host's name servers at a time, by UDP */
	STREAMS = 16,       /* ... and by TCP */
	LONGEST = 65535,    /* bytes of a datagram, of a DNS message */
};

/* What an event of epoll is about; the rest of its number says which one. */
enum kind {
	LISTENER, CLIENT, READY, PASTA, DNS, DNS_LISTENER, QUESTION, STREAM, STREAM_UP,
	PORT, CONNECTION, FLOW,
};

struct address {
	uint8_t size;       /* 4 or 16 bytes; 0: none */
	uint8_t bytes[16];
};

struct server {
	struct address address;
	uint32_t scope;     /* the interface of a link-local one */
	bool inside;        /* it is a member of a network, not the host's */
};

struct network {
	char bridge[16];    /* the name of its bridge; "": this place is free */
	char id[65], name[200];
	struct address gateways[2];
	uint8_t prefixes[2];
	bool internal;      /* no way out, and no names from there */
	int members;
};

struct place {          /* a member in a network */
	int member, network; /* network < 0: this place is free */
	struct address addresses[2]; /* IPv4, IPv6 */
	char outside[16];   /* of its pair of interfaces, the end that is on the bridge */
	char names[NAMES];  /* NAME NUL NAME NUL ... NUL; the first is its own. ALIAS>NAME is a link:
			     * what it alone calls another one */
};

struct client {
	int fd;             /* -1: this place is free */
	char id[65];        /* of the container; "": a command, or not told yet */
	bool leaving;
	struct server servers[SERVERS]; /* of --dns */
	int server_count;
	bool waits;         /* for the way out */
	int connections, flows; /* to its published ports */
};

extern struct client clients[CLIENTS];
extern struct network networks[NETWORKS];
extern struct place places[PLACES];
extern int client_count, place_count; /* so many may be in use: none beyond */
extern int the_epoll;
extern char spare[2 * LONGEST];

/* main.c */
void watch(int fd, enum kind kind, int number, uint32_t events);
void answer_waiting(void);
void new_pasta(int process, int pipe);

/* members.c: who is in which network, and what commands ask */
void accept_client(int listener);
void read_message(int number);
void drop_client(int number);
int place_of(const struct address *address);
bool has_name(const struct place *place, const char *name);
bool is_linked(int member, const struct place *place, const char *name);
bool of_one_member(const struct address *one, const struct address *other);
bool is_neighbour(int member, const struct address *address);
bool has_way_out(int member);

/* files.c: the process that opens files for this one */
const char *begin_files(char *title, size_t size);
void tell_event(const char *line, size_t size);
ssize_t read_resolv_conf(char *text, size_t room);
void remove_socket(void);

/* links.c: interfaces */
const char *begin_links(void);
void delete_link(const char *name);

/* walls.c: what this program can still do; NULL, or what failed */
const char *wall_of_capabilities(void);
const char *wall_of_files(void);
const char *wall_of_calls(void);
const char *enter_walls(void);
const char *walls_of_files_process(void);

/* dns.c: names */
void begin_dns(void);
void dns_datagram(void);
void dns_reply(int number);
void dns_late(void);
void read_servers(char *text, size_t size);
int dns_local(const uint8_t *query, int size, const struct address *from, uint8_t *answer, int room);
int dns_socket(int kind);
socklen_t host_address(int fd, const struct server *server, struct sockaddr_storage *to);
struct server dns_server(const struct address *from, int attempt);
extern int question_fds[QUESTIONS], stream_fds[STREAMS];

/* dns_tcp.c: the same by TCP */
void begin_dns_tcp(void);
void stream_accept(void);
void stream_event(int number, bool up);
void stream_late(void);

/* tcp.c, udp.c: published ports */
struct port {
	int fd;             /* bound in the host's network; -1: this place is free */
	int member;
	uint16_t target;
	bool udp, paused;
};
extern struct port ports[PORTS];
extern int port_count, most_connections, most_flows;
extern bool transparent;
void share_descriptors(unsigned long limit);
int add_port(int member, int fd, uint16_t target);
void drop_ports(int member);
void resume_ports(void);
const struct place *target_of(int member, int family);
void show_client(int fd, const struct sockaddr_storage *who, const struct place *place, int family);
bool is_inside(const struct address *address);
void tcp_accept(int port);
void tcp_event(int number);
void tcp_drop(int member);
void udp_datagram(int port);
void udp_reply(int flow);
void udp_drop(int member);
void udp_late(void);

/* -- small things ------------------------------------------------------------------------------ */

static inline long long now(void) /* ms that never jump */
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

/* Whether a member that has so many of what all share may take one more. It leaves as many as it has,
 * so that whoever comes next finds one (Choudhury and Hahne 1998, dynamic thresholds). */
static inline bool may_take(int his, int free)
{
	return his < free;
}

static inline bool same(const struct address *one, const struct address *other)
{
	return one->size && one->size == other->size && memcmp(one->bytes, other->bytes, one->size) == 0;
}

/* The address in a socket's; an IPv4 one in IPv6 clothes is IPv4. */
static inline struct address address_of(const struct sockaddr_storage *from)
{
	struct address result = { 0 };

	if (from->ss_family == AF_INET) {
		result.size = 4;
		memcpy(result.bytes, &((const struct sockaddr_in *)from)->sin_addr, 4);
	} else if (from->ss_family == AF_INET6) {
		const uint8_t *bytes = ((const struct sockaddr_in6 *)from)->sin6_addr.s6_addr;
		static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

		result.size = memcmp(bytes, mapped, 12) == 0 ? 4 : 16;
		memcpy(result.bytes, bytes + 16 - result.size, result.size);
	}
	return result;
}

static inline int lower(int c)
{
	return c >= 'A' && c <= 'Z' ? c + 32 : c;
}

static inline bool equal(const char *one, const char *other)
{
	while (*one && lower(*one) == lower(*other))
		one++, other++;
	return !*one && !*other;
}

/* Fill a socket's address; return its size. */
static inline socklen_t socket_address(const struct address *address, uint16_t port, uint32_t scope,
				       struct sockaddr_storage *to)
{
	memset(to, 0, sizeof(*to));
	if (address->size == 4) {
		struct sockaddr_in *in = (struct sockaddr_in *)to;

		in->sin_family = AF_INET;
		in->sin_port = htobe16(port);
		memcpy(&in->sin_addr, address->bytes, 4);
		return sizeof(*in);
	}
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)to;

	in6->sin6_family = AF_INET6;
	in6->sin6_port = htobe16(port);
	in6->sin6_scope_id = scope;
	memcpy(&in6->sin6_addr, address->bytes, 16);
	return sizeof(*in6);
}

static inline int make_socket(int family, int kind)
{
	return socket(family, kind | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Forget whom a socket is connected to, so that it can be used again (connect(2), AF_UNSPEC). */
static inline void disconnect(int fd)
{
	struct sockaddr nobody = { .sa_family = AF_UNSPEC };

	connect(fd, &nobody, sizeof(nobody));
}

#endif
