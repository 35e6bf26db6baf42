package app;

public class Main {
    public static void main(String[] names) {
        System.out.println("hello, " + String.join(" ", names));
    }
}
